# thurn_fuzz(NAME USES …): tests/fuzz/fuzz_NAME.c has LLVMFuzzerTestOneInput. Under the fuzz preset it is a libFuzzer program;
# otherwise it is linked with a driver that replays tests/fuzz/seeds/NAME/* and mutations of them, and is run by ctest.
function(thurn_fuzz NAME)
  cmake_parse_arguments(A "" "" "USES;LIBS" ${ARGN})
  add_executable(fuzz_${NAME} ${CMAKE_SOURCE_DIR}/tests/fuzz/fuzz_${NAME}.c)
  target_link_libraries(fuzz_${NAME} PRIVATE thurn_flags ${A_USES} ${A_LIBS})
  if(THURN_FUZZ)
    target_link_options(fuzz_${NAME} PRIVATE -fsanitize=fuzzer)
  else()
    target_sources(fuzz_${NAME} PRIVATE ${CMAKE_SOURCE_DIR}/tests/fuzz/replay.c)
    add_test(NAME fuzz.${NAME} COMMAND fuzz_${NAME} ${CMAKE_SOURCE_DIR}/tests/fuzz/seeds/${NAME})
    set_tests_properties(fuzz.${NAME} PROPERTIES TIMEOUT 120 LABELS fuzz
      ENVIRONMENT "ASAN_OPTIONS=detect_stack_use_after_return=1")
  endif()
endfunction()
