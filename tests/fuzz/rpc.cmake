thurn_fuzz(rpc_frame USES thurn_rpc thurn_base)
