-- id, first row, last row: records of the effective series, read in one go
local found = {}
for _, text in ipairs(redis.call('LRANGE', key('series', ARGV[1]), ARGV[2], ARGV[3])) do
  local entry = string.match(text, '^%S+')
  if entry ~= '0-0' then
    local item = redis.call('XRANGE', key('stream', ARGV[1]), entry, entry)[1]
    if item then found[#found + 1] = item[2][4] end
  end
end
return found
