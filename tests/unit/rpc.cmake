thurn_test(rpc_frame SOURCES unit/test_rpc_frame.c USES thurn_rpc thurn_base)
thurn_test(rpc SOURCES unit/test_rpc.c USES thurn_rpc thurn_proto thurn_net thurn_fiber thurn_base)
