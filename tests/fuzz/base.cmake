thurn_fuzz(config USES thurn_base)
