thurn_test(http_parse SOURCES unit/test_http_parse.c USES thurn_net)
thurn_test(sigv4 SOURCES unit/test_sigv4.c USES thurn_net)
thurn_test(http_client SOURCES unit/test_http_client.c USES thurn_net LIBS Threads::Threads)
