# The parts of server/ that need no running server, compiled into their tests.
set(server_root ${CMAKE_BINARY_DIR}/include-roots/thurn_server)
file(MAKE_DIRECTORY ${server_root})
file(CREATE_LINK ${CMAKE_SOURCE_DIR}/server ${server_root}/server SYMBOLIC)
thurn_test(server_options SOURCES ${CMAKE_SOURCE_DIR}/tests/unit/test_server_options.c ${CMAKE_SOURCE_DIR}/server/options.c
  ${CMAKE_SOURCE_DIR}/server/metrics_join.c ${CMAKE_SOURCE_DIR}/server/memory.c ${CMAKE_SOURCE_DIR}/server/folder.c USES thurn_base thurn_mail thurn_net)
target_include_directories(test_server_options PRIVATE ${server_root})

# Tries things from within the fences, for integration.confine.
add_executable(confine_probe ${CMAKE_SOURCE_DIR}/tests/integration/confine_probe.c ${CMAKE_SOURCE_DIR}/server/confine.c
  ${CMAKE_SOURCE_DIR}/server/fence.c ${CMAKE_SOURCE_DIR}/server/folder.c)
target_include_directories(confine_probe PRIVATE ${server_root})
target_link_libraries(confine_probe PRIVATE thurn_flags thurn_rpc thurn_base Threads::Threads)
