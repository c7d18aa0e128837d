# embed.cmake: turns the page's files into a C source that defines PAGE_FILES (server_internal.h).
#   cmake -DOUT=page_files.c "-DFILES=a.html;b.css" -P embed.cmake
# index.html is served at /, NAME at /page/NAME. An ETag is the first half of a file's SHA-256.
set(type_html "text/html; charset=utf-8")
set(type_css "text/css; charset=utf-8")
set(type_js "text/javascript; charset=utf-8")
set(arrays "")
set(rows "")
foreach(file ${FILES})
  get_filename_component(name ${file} NAME)
  get_filename_component(kind ${file} LAST_EXT)
  string(SUBSTRING ${kind} 1 -1 kind)
  string(MAKE_C_IDENTIFIER ${name} symbol)
  set(path /page/${name})
  if(name STREQUAL index.html)
    set(path /)
  endif()
  file(READ ${file} bytes HEX)
  file(SHA256 ${file} digest)
  string(SUBSTRING ${digest} 0 32 digest)
  string(REGEX REPLACE "(..)" "0x\\1," bytes "${bytes}")
  string(APPEND arrays "static const unsigned char ${symbol}[] = {${bytes}};\n")
  string(APPEND rows "    {\"${path}\", \"${type_${kind}}\", \"\\\"${digest}\\\"\", ${symbol}, sizeof ${symbol}},\n")
endforeach()
file(WRITE ${OUT} "/* Made by embed.cmake: edit the files, not this one. */\n#include \"server/server_internal.h\"\n\n"
     "${arrays}\nconst struct page_file PAGE_FILES[] = {\n${rows}};\n"
     "const size_t PAGE_FILE_COUNT = sizeof PAGE_FILES / sizeof PAGE_FILES[0];\n")
