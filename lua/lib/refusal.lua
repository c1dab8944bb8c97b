--[[ refusal: whether the limits of one request refuse it together.

  Refused when a limit that is neither shadow nor quota is over, or when there are quota limits and
  every one of them is over. A shadow limit never refuses; a shadow quota limit counts as passing. ]]
local refusal = {}

-- checks: list of {is_shadow, is_quota}; overs: for each, whether it is over;
-- passing_quota: quota limits that pass elsewhere.
function refusal.is_refused(checks, overs, passing_quota)
  local quota_over = 0
  local quota_passing = passing_quota
  for i = 1, #checks do
    local check = checks[i]
    local is_over = overs[i] and not check.is_shadow
    if check.is_quota then
      if is_over then
        quota_over = quota_over + 1
      else
        quota_passing = quota_passing + 1
      end
    elseif is_over then
      return true
    end
  end
  return quota_over > 0 and quota_passing == 0
end
