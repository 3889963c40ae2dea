SELECT epoch_us(time_bucket(INTERVAL '10 seconds', event_time)) AS w, max(price) AS price, count(*) AS bids, count(DISTINCT bidder) AS bidders
FROM   bid
GROUP BY time_bucket(INTERVAL '10 seconds', event_time)
