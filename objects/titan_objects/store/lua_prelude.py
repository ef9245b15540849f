"""The Lua that runs before any script: what scripts find, what they do not, and how they are ended and called."""

PRELUDE = b"""
local call, log, setresp, allowed, sha1, step, per_second = ...
local G = _G
local sethook, real_error, real_pcall, setfenv, loadstring = debug.sethook, error, pcall, setfenv, loadstring
local byte, getinfo, kind, rawget, next = string.byte, debug.getinfo, type, rawget, next
local limited
local null = newproxy()
for _, name in ipairs({"io", "require", "dofile", "loadfile", "package", "python", "module", "debug", "newproxy",
                       "print", "collectgarbage", "getfenv", "setfenv", "load"}) do
    G[name] = nil
end
local create = coroutine.create

local used, budget = 0, 0
-- What a script may see is the same on every member of a group: time is instructions, chance begins anew with each
-- script, and no address is shown (but tables and functions as keys still go by theirs in `pairs`).
G.os = {clock = function() return used / per_second end}
local floor, seed = math.floor, 1
math.randomseed = function(given) seed = floor(given) % 2147483646 + 1 end
math.random = function(low, high)
    seed = seed * 16807 % 2147483647  -- Park and Miller, CACM 31 (1988)
    local drawn = (seed - 1) / 2147483646
    if not low then return drawn end
    if not high then low, high = 1, low end
    if low > high then real_error("bad argument to 'random' (interval is empty)", 2) end
    return floor(low + drawn * (high - low + 1))
end
local real_tostring = tostring
tostring = function(value)
    local of = kind(value)
    if of == "string" or of == "number" or of == "boolean" or of == "nil" then return real_tostring(value) end
    local meta = of == "table" and getmetatable(value)
    return meta and meta.__tostring and real_tostring(value) or of
end
local function hook()
    used = used + step
    if used >= budget then
        if getinfo(2, "f").func == limited then return sethook() end  -- the script has ended
        sethook(hook, "", 1)  -- from now on every instruction fails, whoever catches it
        real_error("script is over its limit (lua-time-limit) and was ended", 0)
    end
end
local function watched(f)
    return function(...)
        sethook(hook, "", step)
        return f(...)
    end
end
coroutine.create = function(f) return create(watched(f)) end
coroutine.wrap = function(f)
    local made = create(watched(f))
    return function(...)
        local found = {coroutine.resume(made, ...)}
        if not found[1] then real_error(found[2], 0) end
        return unpack(found, 2)
    end
end

-- What is written in Python says what was wrong as text.
local function sound(ok, ...)
    if not ok then real_error((...), 0) end
    return ...
end
local function checked(f)
    return function(...) return sound(f(...)) end
end

local redis = {}
-- Scripts were written for errors that are texts.
local function caught(ok, ...)
    if ok then return ok, ... end
    local why = ...
    return ok, kind(why) == "table" and rawget(why, "err") or why
end
pcall = function(...) return caught(real_pcall(...)) end
redis.call = function(...)
    local value = call(...)
    if type(value) == "table" and value.err then real_error(value, 0) end
    return value
end
redis.pcall = function(...) return call(...) end
local function wrong() return {err = "ERR wrong number or type of arguments"} end
redis.error_reply = function(...)
    local text = ...
    if select("#", ...) ~= 1 or type(text) ~= "string" then return wrong() end
    if string.sub(text, 1, 1) == "-" then text = string.sub(text, 2) end
    if not string.find(text, " ", 1, true) then text = "ERR " .. text end  -- the first of several words is the code
    return {err = text}
end
redis.status_reply = function(...)
    local text = ...
    if select("#", ...) ~= 1 or type(text) ~= "string" then return wrong() end
    return {ok = text}
end
sha1, allowed = checked(sha1), checked(allowed)
redis.sha1hex = function(...)
    if select("#", ...) ~= 1 then real_error("wrong number of arguments", 0) end
    return sha1(...)
end
redis.acl_check_cmd = function(...)
    local found = allowed(...)
    if found == nil then real_error("Invalid command passed to redis.acl_check_cmd()", 0) end
    return found
end
redis.REDIS_VERSION, redis.REDIS_VERSION_NUM = "7.0.15", 0x0007000f
redis.log = function(...) log(...) end
redis.setresp = function(version)
    if not setresp(tonumber(version)) then real_error("RESP version must be 2 or 3.", 0) end
end
redis.replicate_commands = function() return true end
redis.set_repl = function() end
redis.LOG_DEBUG, redis.LOG_VERBOSE, redis.LOG_NOTICE, redis.LOG_WARNING = 0, 1, 2, 3
redis.REPL_NONE, redis.REPL_AOF, redis.REPL_SLAVE, redis.REPL_REPLICA, redis.REPL_ALL = 0, 1, 2, 2, 3
redis.breakpoint = function() return false end
redis.debug = function() end
G.redis = redis

-- Scripts share what is global: none may change it for others.
local function refuse(_, name)
    real_error("Attempted to modify a global variable '" .. tostring(name) .. "': use local ones", 0)
end
local shared = {}
local function protect(given)
    local shown = setmetatable({}, {__index = given, __newindex = refuse, __metatable = false})
    shared[shown] = true
    return shown
end
local real_rawset = rawset
rawset = function(target, name, value)
    if shared[target] then refuse(target, name) end
    return real_rawset(target, name, value)
end
getmetatable("").__metatable = false
local globals = protect(G)
-- What a script names and nobody has made is a mistake. Not so in `globals`, where what runs Lua looks for `debug`.
local found = setmetatable({}, {__index = function(_, name)
    real_error("Script attempted to access nonexistent global variable '" .. tostring(name) .. "'", 2)
end})
local function seal()
    for name, value in pairs(G) do
        if kind(value) == "table" then G[name] = value == G and globals or protect(value) end
    end
    for name, value in pairs(G) do found[name] = value end
    setfenv(0, globals)
end
local fixed = {__index = found, __newindex = refuse, __metatable = false}

-- What a script returns is looked at when it has ended: nothing in it may run. A copy, for a function may keep it.
local function bare(value, copies)
    if kind(value) ~= "table" or shared[value] then return value end
    if not copies[value] then
        local copy = {}
        copies[value] = copy
        for name, each in next, value do copy[name] = bare(each, copies) end
    end
    return copies[value]
end

local function compile(source, name)
    if byte(source) == 27 then return nil, "compiled code is not taken" end  -- it is not checked, and may crash
    return loadstring(source, name)
end
G.loadstring = compile

function limited(allowed, f, ...)
    used, budget, seed = 0, allowed, 1
    sethook(hook, "", step)
    local ok, value = real_pcall(f, ...)
    sethook()
    if ok then return true, bare(value, {}) end
    if kind(value) ~= "table" then return false, "ERR " .. tostring(value) end
    local why = rawget(value, "err")
    return false, kind(why) == "string" and why or "ERR script raised a table"
end

local function run(f, keys, argv, allowed)
    setfenv(f, setmetatable({KEYS = keys, ARGV = argv}, fixed))
    return limited(allowed, f)
end

local function invoke(f, keys, argv, allowed)
    return limited(allowed, f, keys, argv)
end

-- While a library is loaded it can register functions, and nothing else; what it calls later finds all of `redis`.
local function load(f, register, allowed)
    local given = {register_function = function(...)
        local wrong = register(...)
        if wrong ~= "" then real_error({err = "ERR " .. wrong}, 0) end
    end, log = redis.log}
    for name, value in pairs(redis) do
        if kind(value) == "number" then given[name] = value end
    end
    local own = setmetatable({redis = given}, fixed)
    setfenv(f, own)
    local ok, why = limited(allowed, f)
    own.redis = nil
    return ok, why
end
return compile, run, invoke, load, checked, seal, null
"""
