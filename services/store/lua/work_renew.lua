-- id, task, holder, lease seconds, conversations read by this task: keep a task unless it is over, and say how far it is
local id, task = ARGV[1], ARGV[2]
local target, work = 'tl:api:dataset:' .. id, 'tl:api:work:' .. id
local state = redis.call('HGET', target, 'state')
if not state then return refused('NOT_FOUND', 'there is no dataset ' .. id) end
if state ~= 'creating' then
  return refused('ILLEGAL_EDGE', 'dataset ' .. id .. ' is ' .. string.upper(state) .. ', nobody waits for its rows any more')
end
if redis.call('HGET', work, 'holder:' .. task) ~= ARGV[3] then
  return refused('FENCED', 'another worker has task ' .. task .. ' of dataset ' .. id)
end
redis.call('ZADD', 'tl:api:work-due:' .. id, 'XX', tonumber(now()) + tonumber(ARGV[4]), task)
local more = tonumber(ARGV[5]) - tonumber(redis.call('HGET', work, 'read:' .. task) or 0)
if more ~= 0 then
  redis.call('HSET', work, 'read:' .. task, ARGV[5])
  redis.call('HINCRBY', target, 'conversations_read', more)
  redis.call('HINCRBY', target, 'version', 1)
end
return {'ok', redis.call('HGET', work, 'bad') or ''}
