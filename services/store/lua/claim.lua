-- job, attempt, worker, host ('' where unknown), lease (milliseconds), price (of an hour, '' where unknown), currency:
-- QUEUED -> RUNNING, or the ticket is dropped
local id, attempt, worker, ttl = arg.job, arg.attempt, arg.worker, arg.lease
local state, current = field(id, 'state'), tonumber(field(id, 'attempt'))
if state == '' then return {'dropped', 'there is no such job'} end
if HELD[state] and attempt == current and field(id, 'worker') == worker then
  redis.call('SET', key('lease', id), attempt, 'PX', ttl)
  return {'ok', field(id, 'start_checkpoint')}
end
local elsewhere = arg.host ~= '' and field(id, 'host') ~= arg.host
if state ~= 'queued' or attempt ~= current + 1 or elsewhere then
  local why = 'the job is ' .. string.upper(state) .. ' at attempt ' .. current
  if state == 'queued' and elsewhere then
    why = why .. ' and ' .. (field(id, 'host') == '' and 'waits for a host' or 'has host ' .. field(id, 'host'))
  end
  say(id, 'info', 'TICKET_DROPPED', 'A ticket for attempt ' .. attempt .. ' was dropped: ' .. why .. '.', attempt, {worker = worker})
  return {'dropped', why}
end
local checkpoint = field(id, 'resume_from')
local chosen = checkpoint ~= ''
if not chosen then checkpoint = field(id, 'last_checkpoint') end
local step = checkpoint ~= '' and tonumber(redis.call('ZSCORE', key('lineage', id), checkpoint)) or 0
local last = redis.call('LLEN', key('series', id)) - 1

set(id, 'worker', worker)  -- first a write that a full Redis refuses: then nothing has changed

-- Steps after the checkpoint leave the effective series for ever; their records stay in the stream, their work stays counted.
redis.call('LTRIM', key('series', id), 0, step)
redis.call('ZREMRANGEBYSCORE', key('lineage', id), '(' .. step, '+inf')
if checkpoint == '' then redis.call('LSET', key('series', id), 0, EMPTY_ROW) end
local row = read_row(redis.call('LINDEX', key('series', id), step))
show_row(id, step, row)
if step > 0 then
  local entry = redis.call('XRANGE', key('stream', id), row.entry, row.entry)[1]
  local record = cjson.decode(entry[2][4])
  set(id, 'epoch', record[STEP_FIELD.epoch], 'learning_rate', exact(record[STEP_FIELD.learning_rate]),
    'last_train_nll', exact(record[STEP_FIELD.nll_sum] / record[STEP_FIELD.weight_sum]))
else
  set(id, 'epoch', 0, 'learning_rate', '0', 'last_train_nll', '')
end
mark_best(id)
mark_stored(id)

local time = now()
set(id, 'attempt', attempt, 'start_step', step, 'start_checkpoint', checkpoint, 'last_checkpoint', checkpoint,
  'resume_from', '', 'move_to', '', 'avoid', '', 'last_host', field(id, 'host'), 'attempt_steps', 0, 'tokens_per_second', '0')
if field(id, 'start_time') == '' then set(id, 'start_time', time) end
set(id, 'furthest', chosen and step or math.max(tonumber(field(id, 'furthest')), last))
redis.call('SET', key('lease', id), attempt, 'PX', ttl)
-- One cost has one currency: hours at a price in another are not added.
local currency, counts = field(id, 'currency'), arg.price ~= ''
if counts and currency ~= arg.currency and (tonumber(field(id, 'held_cost')) or 0) > 0 then
  counts = false
  say(id, 'warning', 'COST_INCOMPLETE', 'Host ' .. field(id, 'host') .. ' has its price in ' .. arg.currency .. ' and the job\'s cost is in ' ..
    currency .. ': its hours there are not in the cost.', attempt, {host = field(id, 'host'), currency = arg.currency})
end
if counts then set(id, 'hour_price', exact(arg.price), 'currency', arg.currency) else set(id, 'hour_price', '') end
go(id, 'running')
if attempt == 1 then
  say(id, 'info', 'JOB_RUNNING', 'A worker on host ' .. field(id, 'host') .. ' took the job.', attempt, {worker = worker})
else
  say(id, 'info', 'RESUMED', 'Attempt ' .. attempt .. ' goes on after step ' .. step .. '; ' .. (last - step) .. ' later steps are trained again.',
    attempt, {worker = worker, checkpoint = checkpoint, step = tostring(step), replaced = tostring(last - step)})
end
return {'ok', checkpoint}
