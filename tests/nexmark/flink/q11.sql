CREATE TABLE done (bidder BIGINT, w TIMESTAMP(3), bids BIGINT) WITH ('connector' = 'blackhole');
INSERT INTO done
SELECT bidder, window_start, COUNT(*)
FROM TABLE(SESSION(TABLE bid PARTITION BY bidder, DESCRIPTOR(date_time), INTERVAL '10' SECOND))
GROUP BY bidder, window_start, window_end
