/* tools.c - what a request says of the functions that the model may call. */
#include "server/tools.h"
#include "server/server_internal.h"
#include <string.h>

#define NAME_BYTES_MAX 64

static bool name_is_right(const char *name)
{
    size_t bytes = 0;
    for (; name[bytes]; bytes++) {
        char c = name[bytes];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!letter && c != '_' && c != '-' && c != '.') return false;
    }
    return bytes >= 1 && bytes <= NAME_BYTES_MAX;
}

static const char *tool_name(const json_t *tool)
{
    return json_string_value(json_object_get(json_object_get(tool, "function"), "name"));
}

bool tools_check(const json_t *tools, struct refusal *refusal)
{
    size_t count = json_array_size(tools);
    if (!json_is_array(tools) || count > TOOLS_MAX)
        return refuse(refusal, 400, "tools", "tools must be an array of at most %u functions", TOOLS_MAX);
    for (size_t i = 0; i < count; i++) {
        const json_t *tool = json_array_get(tools, i), *function = json_object_get(tool, "function");
        const json_t *parameters = json_object_get(function, "parameters");
        const char *type = json_string_value(json_object_get(tool, "type")), *name = tool_name(tool);
        if (!type || strcmp(type, "function") != 0 || !name)
            return refuse(
                refusal, 400, "tools",
                "tools[%zu] must be {\"type\":\"function\",\"function\":{\"name\":…}}: others are not supported", i);
        if (!name_is_right(name))
            return refuse(refusal, 400, "tools", "tools[%zu]: the name must be 1 to %d of a-z, A-Z, 0-9, _, - and .", i,
                          NAME_BYTES_MAX);
        if (parameters && !json_is_object(parameters) && !json_is_null(parameters))
            return refuse(refusal, 400, "tools", "tools[%zu]: parameters must be a JSON schema", i);
    }
    return true;
}

bool tools_have(const json_t *tools, const char *name)
{
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const char *other = tool_name(json_array_get(tools, i));
        if (other && strcmp(name, other) == 0) return true;
    }
    return false;
}
