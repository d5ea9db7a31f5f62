thurn_test(fiber SOURCES unit/test_fiber.c USES thurn_fiber thurn_base)
thurn_test(fiber_model SOURCES unit/test_fiber_model.c USES thurn_fiber thurn_base)
thurn_test(fiber_sync SOURCES unit/test_fiber_sync.c USES thurn_fiber thurn_base)
thurn_test(fiber_work SOURCES unit/test_fiber_work.c USES thurn_fiber thurn_base)
