-- job, spec, hash (of the content), request (key, or ''), planned_steps, lease (milliseconds of the validation), datasets and jobs (lists of what it needs),
-- lists (keys of the indexes by owner and label), quota (jobs of one owner in the queue at most; 0: any number)
local id, spec, hash, request, planned, ttl = arg.job, arg.spec, arg.hash, arg.request, arg.planned_steps, arg.lease
if request ~= '' then
  local made = redis.call('HMGET', request, 'id', 'hash')
  if made[1] then
    if made[2] == hash then return {'known', made[1]} end
    return refused('REQUEST_MISMATCH', 'this request_id made ' .. made[1] .. ' from other content; use a new request_id')
  end
end
local full = over_quota(cjson.decode(spec).owner or '', arg.quota)
if full then return full end
local used = {}
for _, dataset in ipairs(arg.datasets) do
  local state = redis.call('HGET', 'tl:api:dataset:' .. dataset, 'state')
  if not state then return refused('NOT_FOUND', 'there is no dataset ' .. dataset) end
  if state ~= 'ready' then
    return refused('ILLEGAL_EDGE', 'dataset ' .. dataset .. ' is ' .. string.upper(state) .. ', a job needs it READY')
  end
  used[#used + 1] = dataset
end
for _, other in ipairs(arg.jobs) do
  if redis.call('EXISTS', key('job', other)) == 0 then return refused('NOT_FOUND', 'there is no job ' .. other) end
  used[#used + 1] = other
end
local time = now()
set(id, 'spec', spec, 'state', 'validating', 'attempt', 0, 'planned_steps', planned, 'create_time', time, 'request', request,
  'uses', table.concat(used, ' '), 'failed_attempts', 0, 'stalled_attempts', 0, 'furthest', 0, 'attempt_steps', 0, 'start_step', 0, 'step', 0)
local rungs = cjson.decode(spec).rungs
if rungs and #rungs > 0 then set(id, 'rungs', table.concat(rungs, ' ')) end
if request ~= '' then redis.call('HSET', request, 'id', id, 'hash', hash) end
redis.call('ZADD', 'tl:run:jobs', string.format('%.0f', tonumber(time) * 1000000), id)
redis.call('SADD', 'tl:run:active', id)
for _, list in ipairs(arg.lists) do redis.call('ZADD', list, string.format('%.0f', tonumber(time) * 1000000), id) end
index(id)
redis.call('RPUSH', key('series', id), EMPTY_ROW)
redis.call('SET', key('lease', id), 0, 'PX', ttl)
each_used(id, 'SADD')
say(id, 'info', 'JOB_CREATED', 'The job was created and is being checked.', 0)
put(id, 'job', cjson.encode({state = 'validating', attempt = 0, host = ''}))
return {'made', id}
