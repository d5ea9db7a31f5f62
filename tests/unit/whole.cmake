# Tests of the whole program: protocol scripts on every backend and wiring, real mail programs, faults.
if(TARGET thurn)
  function(thurn_whole_test NAME)
    cmake_parse_arguments(A "" "TIMEOUT;LABEL" "COMMAND" ${ARGN})
    add_test(NAME ${A_LABEL}.${NAME} COMMAND /usr/bin/python3 -B ${A_COMMAND} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
    set_tests_properties(${A_LABEL}.${NAME} PROPERTIES TIMEOUT ${A_TIMEOUT} LABELS ${A_LABEL} SKIP_REGULAR_EXPRESSION "without: "
      FIXTURES_REQUIRED tmp
      ENVIRONMENT "TMPDIR=${test_tmp};THURN_BINARY=$<TARGET_FILE:thurn>;THURN_DIALOG=$<TARGET_FILE:dialog>;ASAN_OPTIONS=detect_stack_use_after_return=1:exitcode=99")
  endfunction()
  set(tests ${CMAKE_SOURCE_DIR}/tests)
  add_executable(dialog protocol/dialog.c protocol/script.c protocol/words.c)
  target_include_directories(dialog PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  target_link_libraries(dialog PRIVATE thurn_flags thurn_net)
  foreach(combo sqlite-local sqlite-remote pg-local pg-remote)
    thurn_whole_test(${combo} LABEL protocol TIMEOUT 300 COMMAND ${tests}/protocol/run.py ${combo})
  endforeach()
  foreach(combo sqlite-local pg-remote)
    thurn_whole_test(clients-${combo} LABEL integration TIMEOUT 300 COMMAND ${tests}/integration/test_clients.py ${combo})
    thurn_whole_test(relay-${combo} LABEL integration TIMEOUT 300 COMMAND ${tests}/integration/test_relay.py ${combo})
  endforeach()
  foreach(combo sqlite-local pg-s3-remote)
    thurn_whole_test(matrix-${combo} LABEL integration TIMEOUT 600 COMMAND ${tests}/integration/test_matrix.py ${combo})
  endforeach()
  # No command over a large mailbox keeps the loop: 20 ms is meant, and sanitizers make it several times that. Without their quarantine of freed
  # memory, which is emptied in one go.
  foreach(combo sqlite-local pg-local)
    thurn_whole_test(turns-${combo} LABEL integration TIMEOUT 600 COMMAND ${tests}/bench/longest_wait.py --messages 8000 --turn-ms 50 --tries 4 ${combo})
    set_property(TEST integration.turns-${combo} APPEND PROPERTY ENVIRONMENT
      "ASAN_OPTIONS=detect_stack_use_after_return=0:quarantine_size_mb=4:thread_local_quarantine_size_kb=64:exitcode=99")
  endforeach()
  # Nor one over a large message: with a search of it in one go this is above a second.
  thurn_whole_test(turns-large LABEL integration TIMEOUT 300 COMMAND ${tests}/bench/longest_wait.py --large 8 --turn-ms 250 --tries 3 sqlite-local)
  # All samples of ../shared/data where that folder is, and always those made by the test itself.
  thurn_whole_test(corpus-sqlite-local LABEL integration TIMEOUT 600 COMMAND ${tests}/integration/test_corpus.py sqlite-local)
  thurn_whole_test(corpus-pg-remote LABEL integration TIMEOUT 600 COMMAND ${tests}/integration/test_corpus.py pg-remote)
  # Whole clusters, with PostgreSQL, Redis and an S3 server: one at a time.
  thurn_whole_test(cluster LABEL integration TIMEOUT 300 COMMAND ${tests}/integration/test_cluster.py)
  thurn_whole_test(corpus-cluster LABEL integration TIMEOUT 600 COMMAND ${tests}/integration/test_corpus.py cluster 20)
  thurn_whole_test(cluster_loss LABEL fault TIMEOUT 300 COMMAND ${tests}/fault/cluster_loss.py
    --senders 8 --seconds 2 --victims store-1,queue-1,frontend-1,pg-shard-1)
  set_tests_properties(integration.cluster integration.corpus-cluster fault.cluster_loss PROPERTIES RESOURCE_LOCK cluster)
  foreach(t audit bad_config bad_input confine failover install installation operations races readiness rights screens setup verify)
    thurn_whole_test(${t} LABEL integration TIMEOUT 300 COMMAND ${tests}/integration/test_${t}.py)
  endforeach()
endif()
