/* config_yaml.h: between config.c (the table) and config_yaml.c (the file). Nobody else includes it. */
#ifndef BASE_CONFIG_YAML_H
#define BASE_CONFIG_YAML_H

#include "base/config.h"

bool config_find_(str path, enum config_id *out);
bool config_is_group_(str path); /* whether settings begin with "path." */
enum config_type config_type_(enum config_id id);
const char *config_nearest_(str path); /* a path that was probably meant, or NULL */
bool config_set_(struct config *c, enum config_id id, str value, int line, struct err *err);

#endif
