-- key, index, id, record, state or '', hash of the content, request key or '', milliseconds, content key or '': a dataset or sweep
local target, index, id, request, content = ARGV[1], ARGV[2], ARGV[3], ARGV[7], ARGV[9]
if request ~= '' then
  local made = redis.call('HMGET', request, 'id', 'hash')
  if made[1] then
    if made[2] == ARGV[6] then return {'known', made[1]} end
    return refused('REQUEST_MISMATCH', 'this request_id made ' .. made[1] .. ' from other content; use a new request_id')
  end
  redis.call('HSET', request, 'id', id, 'hash', ARGV[6])
end
redis.call('HSET', target, 'record', ARGV[4], 'state', ARGV[5], 'request', request, 'version', 1)
redis.call('ZADD', index, ARGV[8], id)
if content ~= '' then redis.call('SADD', content, id) end
return {'made', id}
