"""The Lua that runs before any script: what scripts find, what they do not, and how they are ended and called.

A script is stopped by its count of instructions and by its memory. Neither may fail anywhere but in Lua's own code: an
error that leaves a Python function the C way would leave the interpreter broken. So the limit of memory is off while
Python runs (`enter`, `leave`), and what cannot be counted while it runs (what Python does, and what Lua's libraries do
in C) is charged as instructions.
"""

PRELUDE = rb"""
local enter, leave, watch, agreed, step, per_second, null, call, log, setresp, may_call, sha1, spread, libraries = ...
local G = _G
local sethook, getinfo, getmeta = debug.sethook, debug.getinfo, debug.getmetatable
local real_error, real_pcall, real_xpcall, setfenv, loadstring = error, pcall, xpcall, setfenv, loadstring
local kind, rawget, next, select, unpack, real_tostring = type, rawget, next, select, unpack, tostring
local byte, find, format, match, sub = string.byte, string.find, string.format, string.match, string.sub
local limited
for _, name in ipairs({"io", "require", "dofile", "loadfile", "package", "python", "module", "debug", "newproxy",
                       "print", "collectgarbage", "gcinfo", "getfenv", "setfenv", "load"}) do
    G[name] = nil
end

-- ---- limits --------------------------------------------------------------------------------------------------------

local LIMIT = "script is over its limit (lua-time-limit) and was ended"
local KILLED = "Script killed by user with SCRIPT KILL..."
local MEMORY = "not enough memory"  -- as Lua itself says it
local used, budget, ended = 0, 0, nil
local function hook()
    used = used + step
    if watch and watch() then ended = KILLED end
    if ended or used >= budget then
        if getinfo(2, "f").func == limited then return sethook() end  -- the script has ended
        ended = ended or LIMIT
        sethook(hook, "", 1)  -- from now on every instruction fails, whoever catches it
        real_error(ended, 0)
    end
end
local function charge(instructions)
    if instructions == nil then real_error(MEMORY, 0) end
    if not instructions then ended, instructions = KILLED, budget end
    used = used + instructions
    if used >= budget then
        ended = ended or LIMIT
        sethook(hook, "", 1)
        real_error(ended, 0)
    end
end

local function long(text) return kind(text) == "string" and #text / 16 or 0 end

-- What is called is Python. It takes many values in a table.
local function handed(f, ...)
    local many = select("#", ...)
    if many <= 50 then return f(...) end
    return spread(f, {...}, many)
end

-- Its errors are texts.
local function back(ok, ...)
    charge(leave())
    if not ok then real_error((...), 0) end
    return ...
end
local function python(f)
    return function(...)
        charge(long((...)))
        enter()
        return back(handed(f, ...))
    end
end

-- Errors say where in the script they were raised, not where in here. A function that returns what another returns is
-- not there any more; of a script of one line its place is known nevertheless.
local running
local function place()
    for level = 3, 20 do
        local at = getinfo(level, "Sl")
        if not at then break end
        if at.currentline > 0 and sub(at.source, 1, 6) == "@user_" then return at end
    end
    local whole = getinfo(running, "SL")
    local lines = whole.activelines or {}  -- a function in C has none
    whole.currentline = next(lines)
    return whole.currentline and next(lines, whole.currentline) == nil and whole or nil
end
local function plain(why)
    if kind(why) ~= "string" then return why end
    local text = match(why, "^prelude:%d+: (.*)$")
    local at = text and place()
    return at and at.short_src .. ":" .. at.currentline .. ": " .. text or text or why
end
local function caught(ok, ...)
    if ok then return ok, ... end
    charge(leave())  -- it may have failed on its way to Python
    local why = ...
    if why == MEMORY then real_error(MEMORY, 0) end
    return ok, kind(why) == "table" and rawget(why, "err") or why  -- scripts were written for errors that are texts
end
pcall = function(f, ...)
    local many = select("#", ...)
    if many == 0 then return caught(real_xpcall(f, plain)) end
    local given = {...}
    return caught(real_xpcall(function() return f(unpack(given, 1, many)) end, plain))
end
-- A handler runs when all is unwound: within an error that a hook has raised nothing would be counted.
local function handled(handler, ok, ...)
    if ok then return ok, ... end
    charge(leave())
    local why = ...
    if why == MEMORY or ended then real_error(why, 0) end
    local fine, said = real_xpcall(function() return handler(why) end, plain)
    if fine then return caught(false, said) end
    charge(leave())
    if said == MEMORY or ended then real_error(said, 0) end
    return false, "error in error handling"
end
xpcall = function(f, handler) return handled(handler, real_xpcall(f, plain)) end

local create, real_resume = coroutine.create, coroutine.resume
coroutine.create = function(f)
    charge(step)  -- what it does before the first look at it would not count
    return create(function(...)
        sethook(hook, "", step)
        return f(...)
    end)
end
local function resumed(ok, ...)
    if ok then return ok, ... end
    charge(leave())
    if (...) == MEMORY then real_error(MEMORY, 0) end
    return ok, plain((...))
end
coroutine.resume = function(...) return resumed(real_resume(...)) end
local function yielded(ok, ...)
    if not ok then real_error((...), 0) end
    return ...
end
coroutine.wrap = function(f)
    local made = coroutine.create(f)
    return function(...) return yielded(coroutine.resume(made, ...)) end
end

-- Scripts share what is global: none may change it for others.
local shared = {}
local function refuse(_, name)
    real_error("Attempted to modify a global variable '" .. tostring(name) .. "': use local ones", 2)
end
local function own(list)
    if shared[list] then refuse(list, "of a library") end
end

-- What works on all of a text or a table at once, in C, where instructions are not counted. A function keeps its name:
-- Lua finds it, for its errors, by how it is called.
local function longer(text, pattern) return long(text) + long(pattern) end
local function elements(list) return kind(list) == "table" and #list or 0 end
local function paid(...)
    charge(long((...)))
    return ...
end
local wrapper = "local %s, charge, cost, paid = ... return function(...) charge(cost(...)) return paid(%s(...)) end"
local function charged(library, cost, ...)
    for _, name in ipairs({...}) do
        local make = loadstring(format(wrapper, name, name), "@prelude")
        library[name] = make(library[name], charge, cost, paid)
    end
end
charged(string, long, "reverse", "lower", "upper")
charged(string, longer, "find", "match", "gmatch", "gsub")
charged(string, function() return 0 end, "format", "sub")
charged(string, function(text, count)  -- of any other text memory ends it
    return text == "" and kind(count) == "number" and count > 0 and count / 16 or 0
end, "rep")
charged(G, long, "tonumber")
charged(table, function(list)
    own(list)
    local many = elements(list)
    return many * math.log(many + 2)
end, "sort")
charged(G, function(list, first, last)
    if kind(list) ~= "table" then return 0 end
    return math.max(0, (tonumber(last) or #list) - (tonumber(first) or 1))
end, "unpack")
charged(table, function(list) return 4 * elements(list) end, "concat")
charged(table, elements, "foreachi")
charged(table, function(list, ...)
    own(list)
    return select("#", ...) > 0 and elements(list) or 0
end, "remove")
charged(table, function(list, at, ...)
    own(list)
    return select("#", ...) > 0 and kind(at) == "number" and math.abs(elements(list) - at) or 0
end, "insert")
local maxn = table.maxn
table.maxn = function(...)
    local list, most = ..., 0
    if kind(list) ~= "table" then return maxn(...) end  -- which says what is wrong
    for key in next, list do
        if kind(key) == "number" and key > most then most = key end
    end
    return most
end

-- ---- the same on every member of a group ---------------------------------------------------------------------------

-- Time is instructions, chance begins anew with each script, and no address is shown.
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
local shows = {string = true, number = true, boolean = true, ["nil"] = true}
tostring = function(value)
    local of = kind(value)
    if shows[of] then return real_tostring(value) end
    local meta = of == "table" and getmeta(value)
    return meta and rawget(meta, "__tostring") ~= nil and real_tostring(value) or of
end
local walked  -- the table that was looked at last
local ordered = function() end
if agreed then
    -- Tables and functions as keys lie in the order of their addresses, and the others lie around them.
    ordered = function(given)
        if kind(given) ~= "table" then return end
        for key in next, given do
            if not shows[kind(key)] then
                real_error("the order of a table with a " .. kind(key) .. " as a key is not the same on all members", 3)
            end
        end
    end
    local real_pairs, foreach = pairs, table.foreach
    pairs = function(given)
        ordered(given)
        if kind(given) ~= "table" then return real_pairs(given) end
        return function(_, key) return next(given, key) end, given  -- not `next`: that would walk through any
    end
    G.next = function(given, key)
        if (key == nil or given ~= walked) and kind(given) == "table" and next(given) ~= nil then ordered(given) end
        walked = given
        return next(given, key)
    end
    -- Whether a member's Lua collects what is not needed depends on what it has done before.
    local real_setmetatable = setmetatable
    G.setmetatable = function(...)
        local _, meta = ...
        if kind(meta) == "table" and rawget(meta, "__mode") ~= nil then
            real_error("weak tables do not keep the same on all members", 2)
        end
        return real_setmetatable(...)
    end
    table.foreach = function(given, f)
        ordered(given)
        return foreach(given, f)
    end
end

-- ---- redis ---------------------------------------------------------------------------------------------------------

local redis = {}
local function answered(value)
    charge(leave())
    return value
end
local function pcalled(...)
    enter()
    return answered(handed(call, ...))
end
redis.pcall = pcalled
redis.call = function(...)
    local value = pcalled(...)
    if kind(value) == "table" and value.err then real_error(value, 0) end
    return value
end
local function wrong() return {err = "ERR wrong number or type of arguments"} end
redis.error_reply = function(...)
    local text = ...
    if select("#", ...) ~= 1 or kind(text) ~= "string" then return wrong() end
    if sub(text, 1, 1) == "-" then text = sub(text, 2) end
    if not find(text, " ", 1, true) then text = "ERR " .. text end  -- the first of several words is the code
    return {err = text}
end
redis.status_reply = function(...)
    local text = ...
    if select("#", ...) ~= 1 or kind(text) ~= "string" then return wrong() end
    return {ok = text}
end
sha1, may_call, log, setresp = python(sha1), python(may_call), python(log), python(setresp)
redis.sha1hex = function(...)
    if select("#", ...) ~= 1 then real_error("wrong number of arguments", 0) end
    return sha1(...)
end
redis.acl_check_cmd = function(...)
    local found = may_call(...)
    if found == nil then real_error("Invalid command passed to redis.acl_check_cmd()", 0) end
    return found
end
redis.REDIS_VERSION, redis.REDIS_VERSION_NUM = "7.0.15", 0x0007000f
redis.log = function(level, ...)
    if select("#", ...) == 0 then real_error("redis.log() requires two arguments or more.", 0) end
    level = tonumber(level)
    if level ~= 0 and level ~= 1 and level ~= 2 and level ~= 3 then real_error("Invalid debug level.", 0) end
    log(level, ...)
end
redis.setresp = function(version)
    if not setresp(tonumber(version)) then real_error("RESP version must be 2 or 3.", 0) end
end
redis.replicate_commands = function() return true end
redis.set_repl = function(...)
    local what = tonumber((...))
    if select("#", ...) ~= 1 then real_error("redis.set_repl() requires two arguments.", 0) end
    if not what or what < 0 or what > 3 then
        real_error("Invalid replication flags. Use REPL_AOF, REPL_REPLICA, REPL_ALL or REPL_NONE.", 0)
    end
end
redis.LOG_DEBUG, redis.LOG_VERBOSE, redis.LOG_NOTICE, redis.LOG_WARNING = 0, 1, 2, 3
redis.REPL_NONE, redis.REPL_AOF, redis.REPL_SLAVE, redis.REPL_REPLICA, redis.REPL_ALL = 0, 1, 2, 2, 3
redis.breakpoint = function() return false end
redis.debug = function() end
G.redis = redis
local function taken(ok, ...)
    charge(leave())
    if not ok then real_error("prelude:0: " .. (...), 0) end  -- what C says where the script was, as `plain` does
    return paid(...)
end
for library, functions in next, libraries do
    local shown = {}
    local rate = library == "struct" and 320 or 1  -- each letter of a format takes Python some time
    for name, f in next, functions do
        shown[name] = function(...)
            charge(rate * long((...)) + 20 * select("#", ...))
            enter()
            return taken(handed(f, ...))
        end
    end
    G[library] = shown
end
G.cjson.null = null

-- ---- what is shared ------------------------------------------------------------------------------------------------

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
-- What a script names and nobody has made is a mistake. Not so in the real globals, where Lua is looked for `debug`.
local found = setmetatable({}, {__index = function(_, name)
    real_error("Script attempted to access nonexistent global variable '" .. tostring(name) .. "'", 2)
end})
for name, value in next, G do
    if kind(value) == "table" then G[name] = value == G and protect(found) or protect(value) end
end
for name, value in next, G do found[name] = value end
setfenv(0, protect(G))
local fixed = {__index = found, __newindex = refuse, __metatable = false}

-- ---- how scripts run -----------------------------------------------------------------------------------------------

-- What a script returns is looked at when it has ended: nothing in it may run. A copy, for a function may keep it.
local function bare(value, copies)
    if kind(value) ~= "table" then return value end
    if shared[value] then return {} end
    if not copies[value] then
        local copy = {}
        copies[value] = copy
        for name, each in next, value do
            if name == "set" or name == "map" then ordered(each) end
            copy[bare(name, copies)] = bare(each, copies)
        end
    end
    return copies[value]
end

local function compile(source, name)
    if byte(source) == 27 then return nil, "compiled code is not taken" end  -- it is not checked, and may crash
    return loadstring(source, name)
end
found.loadstring = function(source, ...)
    charge(kind(source) == "string" and #source or 0)
    local made, why = compile(source, ...)
    if not made and why == MEMORY then real_error(MEMORY, 0) end
    return made, why
end
G.loadstring = found.loadstring

-- Whether it ended well; what it returned, or a text; where it failed.
function limited(allowed, f, first, second)
    local raised
    used, budget, seed, ended, running, walked = 0, allowed, 1, nil, f, nil
    sethook(hook, "", step)
    local ok, value = real_xpcall(function()
        leave()
        return bare(f(first, second), {})
    end, function(why)
        enter()
        raised = place()
        return plain(why)
    end)
    enter()
    sethook()
    if ok then return true, value end
    raised = raised and raised.source .. ":" .. raised.currentline
    if kind(value) ~= "table" then return false, value == MEMORY and value or "ERR " .. tostring(value), raised end
    local why = rawget(value, "err")
    return false, kind(why) == "string" and why or "ERR script raised a table", raised
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
    register = python(register)
    local loading = true
    local given = {register_function = function(...)
        if not loading then real_error("redis.register_function can only be called on FUNCTION LOAD command", 0) end
        local wrong = register(...)
        if wrong ~= "" then real_error({err = "ERR " .. wrong}, 0) end
    end, log = redis.log}
    for name, value in next, redis do
        if kind(value) == "number" then given[name] = value end
    end
    local own = setmetatable({redis = given}, fixed)
    setfenv(f, own)
    local ok, why, where = limited(allowed, f)
    own.redis, loading = nil, false
    return ok, why, where
end
return compile, run, invoke, load
"""
