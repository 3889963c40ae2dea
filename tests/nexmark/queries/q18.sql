--! kind = "stream"
--! key  = ["bidder", "auction"]
--! mode = "upsert"
-- The last bid of each bidder for each auction.
SELECT bidder, auction, price, channel, url, extra FROM bid
