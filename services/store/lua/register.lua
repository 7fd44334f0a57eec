-- key, index, owned (index of the owner's), id, record, state (or ''), hash (of the content), request (key, or ''), time (microseconds), content (key, or ''): a dataset or sweep
local target, index, id, request, content = arg.key, arg.index, arg.id, arg.request, arg.content
if request ~= '' then
  local made = redis.call('HMGET', request, 'id', 'hash')
  if made[1] then
    if made[2] == arg.hash then return {'known', made[1]} end
    return refused('REQUEST_MISMATCH', 'this request_id made ' .. made[1] .. ' from other content; use a new request_id')
  end
  redis.call('HSET', request, 'id', id, 'hash', arg.hash)
end
redis.call('HSET', target, 'record', arg.record, 'state', arg.state, 'request', request, 'version', 1)
redis.call('ZADD', index, arg.time, id)
redis.call('ZADD', arg.owned, arg.time, id)
if arg.state ~= '' then redis.call('ZADD', 'tl:api:state:' .. arg.state, arg.time, id) end
if content ~= '' then redis.call('SADD', content, id) end
return {'made', id}
