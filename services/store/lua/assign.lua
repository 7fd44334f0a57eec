-- choices (of each: job, attempt, host): give waiting jobs to hosts; answers the jobs that were still waiting
local given = {}
for _, choice in ipairs(arg.choices) do
  local id = choice.job
  if field(id, 'state') == 'queued' and field(id, 'host') == '' and field(id, 'attempt') == tostring(choice.attempt) then
    set(id, 'host', choice.host)
    index(id, 'queued')
    redis.call('HSET', 'tl:run:served', cjson.decode(field(id, 'spec')).owner or '', now())
    say(id, 'info', 'JOB_PLACED', 'Given to host ' .. choice.host .. ', where a worker is free.', choice.attempt, {host = choice.host})
    put(id, 'job', cjson.encode({state = 'queued', attempt = choice.attempt, host = choice.host}))
    given[#given + 1] = id
  end
end
return given
