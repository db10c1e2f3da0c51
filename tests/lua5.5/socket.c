/* What the specs need of LuaSocket, which no release has for Lua 5.5: TCP over IPv4, whole lines, the
 * time, and waiting for descriptors. Names and results are LuaSocket's. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <lauxlib.h>
#include <lua.h>

#define CLASS "socket"

typedef struct {
    int fd;
    int timeout_ms;
} Socket;

static Socket *check_socket(lua_State *L) {
    return luaL_checkudata(L, 1, CLASS);
}

static int failed(lua_State *L, const char *why) {
    lua_pushnil(L);
    lua_pushstring(L, why);
    return 2;
}

static int push_socket(lua_State *L, int fd) {
    if (fd < 0) {
        return failed(L, strerror(errno));
    }
    Socket *made = lua_newuserdatauv(L, sizeof *made, 0);
    made->fd = fd;
    made->timeout_ms = -1;
    luaL_setmetatable(L, CLASS);
    return 1;
}

static int wait_readable(int fd, int timeout_ms) {
    struct pollfd one = {.fd = fd, .events = POLLIN};
    int count;
    do {
        count = poll(&one, 1, timeout_ms);
    } while (count < 0 && errno == EINTR);
    return count > 0;
}

static int address(lua_State *L, int index, struct sockaddr_in *found) {
    memset(found, 0, sizeof *found);
    found->sin_family = AF_INET;
    found->sin_port = htons((unsigned short)luaL_checkinteger(L, index + 1));
    return inet_pton(AF_INET, luaL_checkstring(L, index), &found->sin_addr) == 1;
}

static int l_bind(lua_State *L) {
    struct sockaddr_in at;
    int on = 1;
    if (!address(L, 1, &at)) {
        return failed(L, "an IPv4 address expected");
    }
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) != 0 || listen(fd, 32) != 0) {
        int result = failed(L, strerror(errno));
        close(fd);
        return result;
    }
    return push_socket(L, fd);
}

static int l_connect(lua_State *L) {
    struct sockaddr_in to;
    if (!address(L, 1, &to)) {
        return failed(L, "an IPv4 address expected");
    }
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) != 0) {
        int result = failed(L, errno == ECONNREFUSED ? "connection refused" : strerror(errno));
        close(fd);
        return result;
    }
    return push_socket(L, fd);
}

static int l_accept(lua_State *L) {
    Socket *listener = check_socket(L);
    if (!wait_readable(listener->fd, listener->timeout_ms)) {
        return failed(L, "timeout");
    }
    return push_socket(L, accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC));
}

static int l_getsockname(lua_State *L) {
    struct sockaddr_in own;
    socklen_t length = sizeof own;
    char text[INET_ADDRSTRLEN];
    if (getsockname(check_socket(L)->fd, (struct sockaddr *)&own, &length) != 0) {
        return failed(L, strerror(errno));
    }
    lua_pushstring(L, inet_ntop(AF_INET, &own.sin_addr, text, sizeof text));
    lua_pushinteger(L, ntohs(own.sin_port));
    return 2;
}

static int l_settimeout(lua_State *L) {
    Socket *one = check_socket(L);
    one->timeout_ms = lua_isnoneornil(L, 2) ? -1 : (int)(luaL_checknumber(L, 2) * 1000);
    lua_pushinteger(L, 1);
    return 1;
}

static int l_setoption(lua_State *L) {
    check_socket(L);
    lua_pushinteger(L, 1);
    return 1;
}

static int l_send(lua_State *L) {
    Socket *one = check_socket(L);
    size_t length, sent = 0;
    const char *data = luaL_checklstring(L, 2, &length);
    while (sent < length) {
        ssize_t count = send(one->fd, data + sent, length - sent, MSG_NOSIGNAL);
        if (count < 0 && errno != EINTR) {
            return failed(L, errno == EPIPE || errno == ECONNRESET ? "closed" : strerror(errno));
        }
        sent += count > 0 ? (size_t)count : 0;
    }
    lua_pushinteger(L, (lua_Integer)sent);
    return 1;
}

/* A line, byte by byte so that nothing of the next one is taken; other patterns are not there. */
static int l_receive(lua_State *L) {
    Socket *one = check_socket(L);
    const char *pattern = luaL_optstring(L, 2, "*l");
    luaL_argcheck(L, strcmp(pattern, "*l") == 0, 2, "only '*l' is there");
    luaL_Buffer line;
    luaL_buffinit(L, &line);
    for (;;) {
        char byte;
        if (!wait_readable(one->fd, one->timeout_ms)) {
            return failed(L, "timeout");
        }
        ssize_t count = recv(one->fd, &byte, 1, 0);
        if (count <= 0) {
            return failed(L, "closed");
        }
        if (byte == '\n') {
            luaL_pushresult(&line);
            return 1;
        }
        if (byte != '\r') {
            luaL_addchar(&line, byte);
        }
    }
}

static int l_close(lua_State *L) {
    Socket *one = check_socket(L);
    if (one->fd >= 0) {
        close(one->fd);
        one->fd = -1;
    }
    return 0;
}

static int l_gettime(lua_State *L) {
    struct timeval now;
    gettimeofday(&now, NULL);
    lua_pushnumber(L, (lua_Number)now.tv_sec + (lua_Number)now.tv_usec / 1e6);
    return 1;
}

static int l_sleep(lua_State *L) {
    poll(NULL, 0, (int)(luaL_checknumber(L, 1) * 1000 + 0.5));
    return 0;
}

/* select(readers, nil, timeout): which of the objects with a method getfd can be read. */
static int l_select(lua_State *L) {
    struct pollfd watched[64];
    nfds_t count = 0;
    luaL_argcheck(L, lua_isnoneornil(L, 2), 2, "writers are not there");
    int timeout = lua_isnoneornil(L, 3) ? -1 : (int)(luaL_checknumber(L, 3) * 1000 + 0.5);
    for (lua_Integer i = 1; lua_istable(L, 1) && lua_geti(L, 1, i) != LUA_TNIL && count < 64; i++) {
        lua_getfield(L, -1, "getfd");
        lua_insert(L, -2);
        lua_call(L, 1, 1);
        watched[count].fd = (int)luaL_checkinteger(L, -1);
        watched[count++].events = POLLIN;
        lua_pop(L, 1);
    }
    lua_settop(L, 3);
    int ready = poll(watched, count, timeout);
    lua_newtable(L);
    lua_newtable(L);
    for (nfds_t i = 0, found = 0; ready > 0 && i < count; i++) {
        if (watched[i].revents != 0) {
            lua_geti(L, 1, (lua_Integer)i + 1);
            lua_pushvalue(L, -1);
            lua_pushboolean(L, 1);
            lua_settable(L, 4);
            lua_seti(L, 4, (lua_Integer)++found);
        }
    }
    if (ready > 0) {
        return 2;
    }
    lua_pushstring(L, "timeout");
    return 3;
}

static int l_getfd(lua_State *L) {
    lua_pushinteger(L, check_socket(L)->fd);
    return 1;
}

int luaopen_socket(lua_State *L) {
    static const luaL_Reg methods[] = {
        {"accept", l_accept},
        {"getsockname", l_getsockname},
        {"settimeout", l_settimeout},
        {"setoption", l_setoption},
        {"send", l_send},
        {"receive", l_receive},
        {"close", l_close},
        {"getfd", l_getfd},
        {NULL, NULL},
    };
    static const luaL_Reg functions[] = {
        {"bind", l_bind},
        {"connect", l_connect},
        {"gettime", l_gettime},
        {"sleep", l_sleep},
        {"select", l_select},
        {NULL, NULL},
    };
    luaL_newmetatable(L, CLASS);
    luaL_setfuncs(L, methods, 0);
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, l_close);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 1);
    luaL_newlib(L, functions);
    return 1;
}
