thurn_fuzz(proxy USES thurn_net thurn_base)
