-- job, lists (keys of the indexes by owner and label): put a job of an earlier version into the indexes
local id = arg.job
if field(id, 'state') == '' then return {'gone'} end
local time = string.format('%.0f', tonumber(field(id, 'create_time')) * 1000000)
for _, list in ipairs(arg.lists) do redis.call('ZADD', list, time, id) end
index(id)
return {'ok'}
