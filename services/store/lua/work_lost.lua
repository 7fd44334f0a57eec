-- dataset, seconds, queue (key), most: tasks that nobody works on and that are not on the queue; they get so many seconds to be begun
local id = arg.dataset
local due, work = 'tl:api:work-due:' .. id, 'tl:api:work:' .. id
local lost = {}
for _, task in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', now(), 'LIMIT', 0, arg.most)) do
  redis.call('HDEL', work, 'holder:' .. task)  -- its lease has ended, and the new time is nobody's lease
  redis.call('ZADD', due, tonumber(now()) + arg.seconds, task)
  local ticket = redis.call('HGET', work, 'ticket:' .. task)
  if not ticket or not redis.call('LPOS', arg.queue, ticket) then lost[#lost + 1] = task end
end
return lost
