--[[ refusal: whether the limits of one request refuse it together.

  Refused when a limit that is neither shadow nor quota is over, or when there are descriptors with
  quota limits and every one of them is over: that is, one of its quota limits is. A shadow limit
  never refuses; a shadow quota limit counts as passing. ]]
local refusal = {}

-- checks: list of {is_over, is_shadow, is_quota, is_joined}: of the descriptor of the check before;
-- passing_quota: quota descriptors that pass elsewhere.
function refusal.is_refused(checks, passing_quota)
  local quota_over = 0
  local quota_passing = passing_quota
  local has_passing, has_over = false, false
  for i = 1, #checks do
    local check = checks[i]
    local is_over = check.is_over and not check.is_shadow
    if not check.is_quota then
      if is_over then
        return true
      end
    end
    if not check.is_joined then
      has_passing, has_over = false, false
    end
    if check.is_quota and not has_over then
      if is_over then
        has_over = true
        quota_over = quota_over + 1
        if has_passing then
          quota_passing = quota_passing - 1
        end
      elseif not has_passing then
        has_passing = true
        quota_passing = quota_passing + 1
      end
    end
  end
  return quota_over > 0 and quota_passing == 0
end
