-- job, to (host, '' for any other): a job that runs saves a checkpoint, copies it to the store and goes to another host
local id = arg.job
if field(id, 'state') ~= 'running' then
  return refused('ILLEGAL_EDGE', 'job ' .. id .. ' is ' .. string.upper(field(id, 'state')) .. ', only a QUEUED or RUNNING job is moved')
end
set(id, 'move_to', arg.to == '' and '*' or arg.to)
if field(id, 'preempt') == '' then
  set(id, 'preempt', 'moved')
  say(id, 'info', 'PREEMPTING', 'Moved by request: the worker saves a checkpoint, copies it to the store and leaves.', field(id, 'attempt'),
    {to = arg.to})
end
return {'ok'}
