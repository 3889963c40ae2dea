--! kind = "stream"
-- The highest bid of each ten seconds: an aggregate above the window.
SELECT w, max(price) AS price, sum(bids) AS bids, count(*) AS bidders
FROM  (SELECT tumble(event_time, INTERVAL '10 seconds') AS w, bidder, max(price) AS price, count(*) AS bids
       FROM   bid
       GROUP BY tumble(event_time, INTERVAL '10 seconds'), bidder)
GROUP BY w
