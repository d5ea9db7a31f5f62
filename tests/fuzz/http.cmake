thurn_fuzz(http_parse USES thurn_net)
