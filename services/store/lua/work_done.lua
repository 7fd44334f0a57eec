-- id, task, holder, index of a bad shard or '', then task and argument ('': as noted before) of each that follows: a task is over
local id, task = ARGV[1], ARGV[2]
local due, work = 'tl:api:work-due:' .. id, 'tl:api:work:' .. id
local state = redis.call('HGET', 'tl:api:dataset:' .. id, 'state')
if not state then return refused('NOT_FOUND', 'there is no dataset ' .. id) end
if state ~= 'creating' then
  return refused('ILLEGAL_EDGE', 'dataset ' .. id .. ' is ' .. string.upper(state) .. ', nobody waits for its rows any more')
end
if redis.call('HGET', work, 'holder:' .. task) ~= ARGV[3] then
  return refused('FENCED', 'another worker has task ' .. task .. ' of dataset ' .. id)
end
if ARGV[4] ~= '' then
  local bad = redis.call('HGET', work, 'bad')
  if not bad or tonumber(ARGV[4]) < tonumber(bad) then redis.call('HSET', work, 'bad', ARGV[4]) end
end
redis.call('ZREM', due, task)
for index = 5, #ARGV, 2 do
  if ARGV[index + 1] ~= '' then redis.call('HSET', work, 'task:' .. ARGV[index], ARGV[index + 1]) end
  redis.call('ZADD', due, 'NX', 0, ARGV[index])
end
return {'ok'}
