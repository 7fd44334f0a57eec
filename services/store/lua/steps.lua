-- job, first, last (rows): records of the effective series, read in one go
local found = {}
for _, text in ipairs(redis.call('LRANGE', key('series', arg.job), arg.first, arg.last)) do
  local entry = string.match(text, '^%S+')
  if entry ~= '0-0' then
    local item = redis.call('XRANGE', key('stream', arg.job), entry, entry)[1]
    if item then found[#found + 1] = item[2][4] end
  end
end
return found
