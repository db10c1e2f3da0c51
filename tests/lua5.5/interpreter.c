/* A small interpreter for Lua 5.5: lua5.5 [-v] [-e CHUNK] [-l MODULE] [SCRIPT [ARGUMENT...]]
 *
 * The crate that has the sources of Lua 5.5 leaves out lua.c. Without a script and without -e, the
 * program on standard input is run. The module "socket" is built in, see socket.c. */
#include <stdio.h>
#include <string.h>

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

int luaopen_socket(lua_State *L);

static int with_traceback(lua_State *L) {
    const char *message = lua_tostring(L, 1);
    luaL_traceback(L, L, message ? message : luaL_tolstring(L, 1, NULL), 1);
    return 1;
}

/* Runs the chunk on top of the stack, below which its arguments are not yet. */
static int run(lua_State *L, int loaded, int arguments) {
    if (loaded == LUA_OK) {
        int handler = lua_gettop(L) - arguments;
        lua_pushcfunction(L, with_traceback);
        lua_insert(L, handler);
        loaded = lua_pcall(L, arguments, 0, handler);
        lua_remove(L, handler);
    }
    if (loaded != LUA_OK) {
        fprintf(stderr, "lua5.5: %s\n", luaL_tolstring(L, -1, NULL));
        lua_pop(L, 2);
        return 0;
    }
    return 1;
}

/* The table `arg`: the script is number 0, what stands before it has negative numbers. */
static void set_arguments(lua_State *L, int argc, char **argv, int script) {
    lua_createtable(L, argc, 1);
    for (int i = 0; i < argc; i++) {
        lua_pushstring(L, argv[i]);
        lua_rawseti(L, -2, i - script);
    }
    lua_setglobal(L, "arg");
}

static int run_script(lua_State *L, int argc, char **argv, int script) {
    const char *name = script < argc && strcmp(argv[script], "-") != 0 ? argv[script] : NULL;
    int loaded = luaL_loadfile(L, name);
    int arguments = 0;
    if (loaded == LUA_OK) {
        for (int i = script + 1; i < argc; i++, arguments++) {
            lua_pushstring(L, argv[i]);
        }
    }
    return run(L, loaded, arguments);
}

int main(int argc, char **argv) {
    int script = 1, has_chunk = 0, ok = 1;
    while (script < argc && argv[script][0] == '-' && argv[script][1] != '\0') {
        char option = argv[script][1];
        if (option != 'v' && option != '-' && argv[script][2] == '\0') {
            script++;
        }
        script++;
        if (option == '-') {
            break;
        }
    }
    lua_State *L = luaL_newstate();
    if (L == NULL) {
        fprintf(stderr, "lua5.5: not enough memory\n");
        return 1;
    }
    luaL_openlibs(L);
    luaL_requiref(L, "socket", luaopen_socket, 0);
    lua_pop(L, 1);
    set_arguments(L, argc, argv, script);
    for (int i = 1; ok && i < script; i++) {
        char option = argv[i][1];
        if (option == '-') {
            break;
        }
        if (option == 'v') {
            printf("%s\n", LUA_RELEASE);
            has_chunk = 1;
            continue;
        }
        const char *value = argv[i][2] ? argv[i] + 2 : i + 1 < argc ? argv[++i] : NULL;
        if (value == NULL || (option != 'e' && option != 'l')) {
            fprintf(stderr, "lua5.5: -v, -e CHUNK or -l MODULE expected, got '%s'\n", argv[i]);
            ok = 0;
        } else if (option == 'e') {
            has_chunk = 1;
            ok = run(L, luaL_loadbuffer(L, value, strlen(value), "=(command line)"), 0);
        } else {
            lua_getglobal(L, "require");
            lua_pushstring(L, value);
            lua_pushvalue(L, -1);
            lua_insert(L, -3);
            if (lua_pcall(L, 1, 1, 0) == LUA_OK) {
                lua_setglobal(L, lua_tostring(L, -2));
            } else {
                fprintf(stderr, "lua5.5: %s\n", luaL_tolstring(L, -1, NULL));
                ok = 0;
            }
            lua_settop(L, 0);
        }
    }
    if (ok && (script < argc || !has_chunk)) {
        ok = run_script(L, argc, argv, script);
    }
    lua_close(L);
    return ok ? 0 : 1;
}
