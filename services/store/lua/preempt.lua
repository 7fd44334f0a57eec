-- job, attempt, reason: the next commit answers "preempt"
local id, attempt = arg.job, arg.attempt
if not holds(id, attempt) then
  return fenced(id, attempt)
end
if field(id, 'preempt') == '' then
  set(id, 'preempt', arg.reason)
  say(id, 'info', 'PREEMPTING', 'The worker has to leave (' .. arg.reason .. '): it saves a checkpoint first.', attempt)
end
return {'ok'}
