foreach(target spf dkim dmarc)
  thurn_fuzz(${target} USES thurn_mailauth)
endforeach()
