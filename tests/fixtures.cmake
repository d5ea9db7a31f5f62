# Every test (but those of fuzz targets) has TMPDIR, a folder of this build that is there from the first test of a run to its last.
string(MD5 fixture_id ${CMAKE_BINARY_DIR})
string(SUBSTRING ${fixture_id} 0 10 fixture_id)
set(test_tmp /tmp/thurn-test-${fixture_id})
add_test(NAME fixture.tmp-make COMMAND ${CMAKE_COMMAND} -E make_directory ${test_tmp})
add_test(NAME fixture.tmp-remove COMMAND ${CMAKE_COMMAND} -E rm -rf ${test_tmp})
set_tests_properties(fixture.tmp-make PROPERTIES FIXTURES_SETUP tmp)
set_tests_properties(fixture.tmp-remove PROPERTIES FIXTURES_CLEANUP tmp)

# Servers that tests share: each is started once in a ctest run, by a fixture, for those tests that ask for it. One that cannot be
# started fails those tests; THURN_TEST_WITHOUT (tests/unit/needs.h) leaves it out.

# thurn_test_pg(NAME …): as thurn_test(). THURN_TEST_PG is the DSN of a throw-away PostgreSQL cluster of this build (on a
# Unix socket, so no port is taken); tests/unit/testdb.h makes a database in it.
set(pg_dir /tmp/thurn-test-pg-${fixture_id})
add_test(NAME fixture.pg-start COMMAND ${CMAKE_SOURCE_DIR}/tests/integration/pg.sh start ${pg_dir})
add_test(NAME fixture.pg-stop COMMAND ${CMAKE_SOURCE_DIR}/tests/integration/pg.sh stop ${pg_dir})
set_tests_properties(fixture.pg-start PROPERTIES FIXTURES_SETUP pg TIMEOUT 120)
set_tests_properties(fixture.pg-stop PROPERTIES FIXTURES_CLEANUP pg TIMEOUT 60)
function(thurn_test_pg NAME)
  thurn_test(${NAME} ${ARGN})
  target_link_libraries(test_${NAME} PRIVATE thurn_testdb)
  set_property(TEST unit.${NAME} APPEND PROPERTY FIXTURES_REQUIRED pg)
  set_property(TEST unit.${NAME} APPEND PROPERTY ENVIRONMENT "THURN_TEST_PG=host=${pg_dir} port=5432 user=test dbname=postgres")
endfunction()
if(TARGET thurn_data)
  add_library(thurn_testdb STATIC ${CMAKE_SOURCE_DIR}/tests/unit/testdb.c)
  target_include_directories(thurn_testdb PUBLIC ${CMAKE_SOURCE_DIR}/tests)
  target_link_libraries(thurn_testdb PRIVATE thurn_flags PUBLIC thurn_data PRIVATE PkgConfig::PQ)
endif()

# thurn_test_s3(NAME …): as thurn_test_pg(). THURN_TEST_S3 names a file with "endpoint,bucket,access key,secret key" of a
# real S3 server (Ceph radosgw in memory).
set(s3_dir /tmp/thurn-test-s3-${fixture_id})
add_test(NAME fixture.s3-start COMMAND ${CMAKE_SOURCE_DIR}/tests/integration/s3.sh start ${s3_dir})
add_test(NAME fixture.s3-stop COMMAND ${CMAKE_SOURCE_DIR}/tests/integration/s3.sh stop ${s3_dir})
set_tests_properties(fixture.s3-start PROPERTIES FIXTURES_SETUP s3 TIMEOUT 180)
set_tests_properties(fixture.s3-stop PROPERTIES FIXTURES_CLEANUP s3 TIMEOUT 60)
function(thurn_test_s3 NAME)
  thurn_test_pg(${NAME} ${ARGN})
  set_property(TEST unit.${NAME} APPEND PROPERTY FIXTURES_REQUIRED s3)
  set_property(TEST unit.${NAME} APPEND PROPERTY ENVIRONMENT "THURN_TEST_S3=${s3_dir}/env")
endfunction()
