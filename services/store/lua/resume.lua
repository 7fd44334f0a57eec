-- job, checkpoint ('' for the last), host (absent: the same; '': the pool), quota (0: any number): PAUSED, FAILED, CANCELLED -> QUEUED
local id, checkpoint, host = arg.job, arg.checkpoint, arg.host
local state = field(id, 'state')
if state ~= 'paused' and not TERMINAL[state] then
  return refused('ILLEGAL_EDGE', 'job ' .. id .. ' is ' .. string.upper(state) .. ', only a PAUSED, FAILED or CANCELLED job is resumed')
end
if state == 'succeeded' then
  return refused('ILLEGAL_EDGE', 'job ' .. id .. ' is SUCCEEDED, only a PAUSED, FAILED or CANCELLED job is resumed; create a job that starts from it')
end
if TERMINAL[state] then
  if redis.call('EXISTS', key('series', id)) == 0 then
    return refused('ILLEGAL_EDGE', 'the ledger of job ' .. id .. ' has expired; create a job that starts from its checkpoint')
  end
  for used in string.gmatch(field(id, 'uses'), '%S+') do
    if redis.call('EXISTS', 'tl:api:dataset:' .. used, key('job', used)) == 0 then
      return refused('NOT_FOUND', 'job ' .. id .. ' needs ' .. used .. ', which was deleted')
    end
  end
  if field(id, 'queue_time') == '' then
    return refused('ILLEGAL_EDGE', 'job ' .. id .. ' was never queued; create it again')
  end
end
if checkpoint ~= '' and not redis.call('ZSCORE', key('lineage', id), checkpoint) then
  local known = redis.call('HEXISTS', key('checkpoints', id), checkpoint) == 1
  return refused('CHECKPOINT', known
    and ('checkpoint ' .. checkpoint .. ' belongs to steps that a later attempt replaced; create a job that starts from it')
    or ('job ' .. id .. ' has no checkpoint ' .. checkpoint))
end
local full = EDGES[state] and EDGES[state].queued and over_quota(cjson.decode(field(id, 'spec')).owner or '', arg.quota)
if full then return full end
if host and EDGES[state] and EDGES[state].queued then set(id, 'host', host) end
local answer = go(id, 'queued')
if answer then return answer end
set(id, 'resume_from', checkpoint, 'failed_attempts', 0, 'stalled_attempts', 0, 'furthest', 0, 'error', '', 'last_error', '', 'cancel_wanted', '')
-- Whoever resumes a cell that waits at a rung, or was stopped there, wants it to go on whatever the others do.
if field(id, 'rung') ~= '' then set(id, 'rungs', '', 'rung', '', 'standing', '') end
say(id, 'info', 'JOB_QUEUED', 'Resumed by request' .. (checkpoint ~= '' and (' from checkpoint ' .. checkpoint) or '') .. '.', field(id, 'attempt'),
  {host = field(id, 'host')})
return {'ok'}
