# What is checked of the sources themselves, without running them.
add_test(NAME source.format COMMAND sh -c "git ls-files '*.[ch]' | xargs -P 2 -n 50 clang-format --dry-run -Werror" WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
add_test(NAME source.fiber_marks COMMAND /usr/bin/python3 -B ${CMAKE_SOURCE_DIR}/tools/fiber_marks.py)
add_test(NAME source.log_events COMMAND /usr/bin/python3 -B ${CMAKE_SOURCE_DIR}/tools/log_events.py)
add_test(NAME source.audit_events COMMAND /usr/bin/python3 -B ${CMAKE_SOURCE_DIR}/tools/audit_events.py)
add_test(NAME source.worker_settings COMMAND /usr/bin/python3 -B ${CMAKE_SOURCE_DIR}/tools/worker_settings.py)
add_test(NAME source.mutants COMMAND /usr/bin/python3 -B ${CMAKE_SOURCE_DIR}/tests/mutants/run --check)
add_test(NAME source.shell COMMAND shellcheck -x -S warning start test .ci/run deploy/dev-cluster deploy/install.sh deploy/user.sh
  tests/integration/pg.sh tests/integration/s3.sh WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
if(TARGET thurn)
  add_test(NAME source.exports COMMAND /usr/bin/python3 -B ${CMAKE_SOURCE_DIR}/tools/exports.py $<TARGET_FILE:thurn> $<TARGET_FILE:thurn_base>
    $<TARGET_FILE:thurn_auth> $<TARGET_FILE:thurn_store> $<TARGET_FILE:thurn_queue> $<TARGET_FILE:thurn_net> $<TARGET_FILE:thurn_mail>)
  set_tests_properties(source.exports PROPERTIES TIMEOUT 60 LABELS source)
endif()
set_tests_properties(source.format source.fiber_marks source.log_events source.audit_events source.worker_settings source.mutants source.shell PROPERTIES TIMEOUT 60 LABELS source)
