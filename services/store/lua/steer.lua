-- job, wish ("cancel" or "pause")
local id, wish = arg.job, arg.wish
local state = field(id, 'state')
if wish == 'cancel' then
  if TERMINAL[state] or state == 'cancelling' then return {'ok'} end
  if state == 'pausing' then
    set(id, 'cancel_wanted', '1')
    return {'ok'}
  end
  local to = state == 'running' and 'cancelling' or 'cancelled'
  local answer = go(id, to)
  if answer then return answer end
  say(id, 'info', to == 'cancelling' and 'JOB_CANCELLING' or 'JOB_CANCELLED',
    to == 'cancelling' and 'Cancelled: the worker saves a checkpoint and stops.' or 'Cancelled while no worker held it.', field(id, 'attempt'))
  return {'ok'}
end
if (state == 'pausing' or state == 'paused') and field(id, 'rung') ~= '' then
  -- It would go on with the other cells of its sweep; now it waits for its owner.
  set(id, 'rung', '')
  index(id, state)
  say(id, 'info', 'JOB_PAUSING', 'Paused by request: it no longer waits for the other cells of its sweep.', field(id, 'attempt'))
  return {'ok'}
end
if state == 'pausing' then return {'ok'} end
local answer = go(id, 'pausing')
if answer then return answer end
say(id, 'info', 'JOB_PAUSING', 'Paused: the worker saves a checkpoint and stops.', field(id, 'attempt'))
return {'ok'}
