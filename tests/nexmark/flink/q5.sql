CREATE TABLE done (w TIMESTAMP(3), auction BIGINT, bids BIGINT) WITH ('connector' = 'blackhole');
INSERT INTO done
SELECT a.window_start, a.auction, a.bids
FROM  (SELECT window_start, window_end, auction, COUNT(*) AS bids
       FROM TABLE(HOP(TABLE bid, DESCRIPTOR(date_time), INTERVAL '2' SECOND, INTERVAL '10' SECOND))
       GROUP BY window_start, window_end, auction) AS a
JOIN  (SELECT window_start, window_end, MAX(bids) AS bids
       FROM  (SELECT window_start, window_end, auction, COUNT(*) AS bids
              FROM TABLE(HOP(TABLE bid, DESCRIPTOR(date_time), INTERVAL '2' SECOND, INTERVAL '10' SECOND))
              GROUP BY window_start, window_end, auction)
       GROUP BY window_start, window_end) AS m
ON    a.window_start = m.window_start AND a.window_end = m.window_end AND a.bids >= m.bids
