#include "common/test.h"

int main(int argc, char** argv) { return deftree::test::run_all(argc, argv); }
