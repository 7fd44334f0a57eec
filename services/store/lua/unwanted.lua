-- content key, what names the file: whether still nobody needs it; one that somebody needs again is taken off the list
if redis.call('EXISTS', ARGV[1]) == 0 then return {'unwanted'} end
redis.call('ZREM', 'tl:api:unwanted', ARGV[2])
return {'wanted'}
