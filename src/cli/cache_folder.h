/* cache_folder.h - `kvasir cache` on a folder instead of a server. */
#ifndef CLI_CACHE_FOLDER_H
#define CLI_CACHE_FOLDER_H
#include "cli/cli.h"
#include "eval/eval.h"

int cache_folder(const struct options *options, enum eval_folder_action action);

#endif
