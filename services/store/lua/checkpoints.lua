-- job: names of the effective run, and all records
return {redis.call('ZRANGE', key('lineage', arg.job), 0, -1), redis.call('HVALS', key('checkpoints', arg.job))}
