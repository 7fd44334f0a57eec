-- content (key), file: whether still nobody needs it; one that somebody needs again is taken off the list
if redis.call('EXISTS', arg.content) == 0 then return {'unwanted'} end
redis.call('ZREM', 'tl:api:unwanted', arg.file)
return {'wanted'}
