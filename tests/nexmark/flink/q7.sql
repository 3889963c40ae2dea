CREATE TABLE done (w TIMESTAMP(3), price BIGINT, bids BIGINT, bidders BIGINT) WITH ('connector' = 'blackhole');
INSERT INTO done
SELECT window_start, MAX(price), SUM(bids), COUNT(*)
FROM  (SELECT window_start, window_end, bidder, MAX(price) AS price, COUNT(*) AS bids
       FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(date_time), INTERVAL '10' SECOND))
       GROUP BY window_start, window_end, bidder)
GROUP BY window_start, window_end
