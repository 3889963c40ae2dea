--! kind = "stream"
-- Hot items: the auctions with the most bids of the last ten seconds, every two.
SELECT w, auction, bids, max(bids) OVER (PARTITION BY w) AS most
FROM  (SELECT hop(event_time, INTERVAL '2 seconds', INTERVAL '10 seconds') AS w, auction, count(*) AS bids
       FROM   bid
       GROUP BY hop(event_time, INTERVAL '2 seconds', INTERVAL '10 seconds'), auction)
QUALIFY bids = most
