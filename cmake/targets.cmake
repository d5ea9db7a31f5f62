# thurn_library(NAME DIR SOURCES… USES …): one static library per folder. Its headers are included as "<folder>/x.h"
# and are exported only to targets that name it in USES: a wrong include does not compile.
#
# The include root of a folder is a build directory that holds one symbolic link to it, so that exporting lib/net does
# not export lib/rpc beside it.
function(thurn_library NAME PREFIX)
  cmake_parse_arguments(A "" "" "SOURCES;USES;LIBS" ${ARGN})
  add_library(${NAME} STATIC ${A_SOURCES})
  set(root ${CMAKE_BINARY_DIR}/include-roots/${NAME})
  get_filename_component(parent ${root}/${PREFIX} DIRECTORY)
  file(MAKE_DIRECTORY ${parent})
  file(CREATE_LINK ${CMAKE_CURRENT_SOURCE_DIR} ${root}/${PREFIX} SYMBOLIC)
  target_include_directories(${NAME} PUBLIC ${root})
  target_link_libraries(${NAME} PRIVATE thurn_flags PUBLIC ${A_USES} PRIVATE ${A_LIBS})
endfunction()

# thurn_test(NAME SOURCES… USES …): a cmocka program run by ctest as unit.NAME. A failed assertion ends it there: it may stand
# on a fiber's stack, and a jump out of that would leave a runtime behind in which every later case fails too.
function(thurn_test NAME)
  cmake_parse_arguments(A "" "" "SOURCES;USES;LIBS" ${ARGN})
  add_executable(test_${NAME} ${A_SOURCES})
  target_link_libraries(test_${NAME} PRIVATE thurn_flags ${A_USES} ${A_LIBS} cmocka)
  add_test(NAME unit.${NAME} COMMAND test_${NAME} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(unit.${NAME} PROPERTIES TIMEOUT 300 LABELS unit SKIP_REGULAR_EXPRESSION "without: " FIXTURES_REQUIRED tmp
    ENVIRONMENT "TMPDIR=${test_tmp};CMOCKA_TEST_ABORT=1;ASAN_OPTIONS=detect_stack_use_after_return=1;UBSAN_OPTIONS=print_stacktrace=1")
endfunction()
