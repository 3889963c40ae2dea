SELECT bidder, epoch_us(min(event_time)) AS w, count(*) AS bids
FROM  (SELECT bidder, event_time, sum(begins) OVER (PARTITION BY bidder ORDER BY event_time, _partition, _offset) AS session
       FROM  (SELECT bidder, event_time, _partition, _offset,
                     (event_time - lag(event_time) OVER (PARTITION BY bidder ORDER BY event_time, _partition, _offset)
                      < INTERVAL '10 seconds') IS NOT TRUE AS begins
              FROM bid))
GROUP BY bidder, session
