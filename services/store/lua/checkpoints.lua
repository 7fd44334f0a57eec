-- id: names of the effective run, and all records
return {redis.call('ZRANGE', key('lineage', ARGV[1]), 0, -1), redis.call('HVALS', key('checkpoints', ARGV[1]))}
