-- job, attempt, step, events: what the job's adapter said after a step, told once however often the step is trained.
-- events: {level, type, message, fields} each. Answers 'told', 'known' or 'fenced'.
local id, step = arg.job, arg.step
if not holds(id, arg.attempt) then return {'fenced'} end
if step <= (tonumber(field(id, 'sampled_step')) or 0) then return {'known'} end
for _, event in ipairs(arg.events) do
  say(id, event.level, event.type, event.message, arg.attempt, event.fields)
end
set(id, 'sampled_step', tostring(step))
return {'told'}
