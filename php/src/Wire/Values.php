<?php

declare(strict_types=1);

namespace Roster\Wire;

use Roster\Call;
use Roster\CallOutcome;
use Roster\CallResult;
use Roster\Change;
use Roster\ChangeKind;
use Roster\Exception\AccessDenied;
use Roster\Exception\CallFailed;
use Roster\Exception\CallTimedOut;
use Roster\Exception\InvalidRequest;
use Roster\Exception\NoMaster;
use Roster\Exception\Overloaded;
use Roster\Exception\RosterException;
use Roster\Freshness;
use Roster\Held;
use Roster\Instance;
use Roster\InstanceState;
use Roster\Master;
use Roster\MasterChange;
use Roster\MasterMessage;
use Roster\Node;
use Roster\Origin;
use Roster\Probe;
use Roster\Provenance;
use Roster\Resolved;
use Roster\Service;
use Roster\Source;
use Roster\Stat;
use Roster\Status;
use Roster\Thrift;
use Roster\Way;
use Roster\Withholding;
use Roster\WorkerAnswer;
use Roster\WorkerReport;

/**
 * Makes this package's values of what Thrift's classes hold, and the other way round.
 *
 * @internal
 */
final class Values
{
    public static function freshness(Thrift\Freshness $told, Way $way): Freshness
    {
        return new Freshness($told->revision, $told->ageMs, Origin::from($told->origin), $told->complete, $way);
    }

    /**
     * How far what several answers say together can be trusted.
     *
     * @param non-empty-list<Freshness> $all
     */
    public static function together(array $all, int $revision): Freshness
    {
        return new Freshness(
            $revision,
            max(array_column($all, 'ageMs')),
            in_array(Origin::Restored, array_column($all, 'origin'), true) ? Origin::Restored : Origin::Live,
            !in_array(false, array_column($all, 'complete'), true),
            $all[0]->from,
        );
    }

    public static function node(Thrift\Node $told, Freshness $freshness): Node
    {
        return new Node($told->path, $told->data, Stat::of(get_object_vars($told->stat)), $freshness);
    }

    public static function change(Thrift\Change $told, Freshness $freshness): Change
    {
        $node = $told->node ? self::node($told->node, $freshness) : null;
        return new Change(self::kind($told->kind), $told->path, $node, $freshness);
    }

    public static function service(Thrift\Service $told): Service
    {
        return new Service($told->name, $told->version, self::json($told->metadata));
    }

    public static function instance(Thrift\Instance $told, Freshness $freshness): Instance
    {
        return new Instance(
            $told->serviceName,
            $told->version,
            $told->group,
            $told->zone,
            $told->weight,
            self::json($told->metadata),
            self::state($told->state),
            array_map(self::endpoint(...), $told->endpoints),
            $told->masterId,
            $told->outstanding,
            array_map(self::provenance(...), $told->provenance),
            $freshness,
            self::withholding($told->ejected),
            self::withholding($told->drained),
            $told->held === null ? null : self::held($told->held),
        );
    }

    public static function resolved(Thrift\Instance $told, Freshness $freshness, ?bool $isProtected): Resolved
    {
        $endpoints = array_filter($told->endpoints, static fn (Thrift\Endpoint $endpoint) => $endpoint->name === '');
        $endpoint = [...$endpoints, ...$told->endpoints][0] ?? null;
        $isMaster = $told->masterId !== null;
        return new Resolved(
            $isMaster ? null : $endpoint?->host,
            $isMaster ? null : $endpoint?->port,
            $endpoint?->protocol ?? '',
            $told->masterId,
            $freshness,
            $isProtected ?? false,
        );
    }

    private static function state(int $told): InstanceState
    {
        return match ($told) {
            Thrift\InstanceState::UP => InstanceState::Up,
            Thrift\InstanceState::RETURNING => InstanceState::Returning,
            Thrift\InstanceState::DOWN => InstanceState::Down,
            default => InstanceState::Unknown,
        };
    }

    private static function held(Thrift\Held $told): Held
    {
        $probe = match ($told->probe) {
            Thrift\Probe::UNTRIED => Probe::Untried,
            Thrift\Probe::ANSWERING => Probe::Answering,
            Thrift\Probe::SILENT => Probe::Silent,
            default => Probe::Unknown,
        };
        return new Held($told->since, $told->endsAt, $probe, $told->passedOver);
    }

    private static function endpoint(Thrift\Endpoint $told): \Roster\Endpoint
    {
        return new \Roster\Endpoint($told->name, $told->protocol, $told->host, $told->port);
    }

    private static function withholding(?Thrift\Withholding $told): ?Withholding
    {
        return $told === null ? null : new Withholding($told->since, $told->endsAt, $told->reason);
    }

    private static function provenance(Thrift\Provenance $told): Provenance
    {
        return new Provenance($told->source, $told->path, $told->masterId, $told->decoder, $told->sinceRevision);
    }

    public static function master(Thrift\Master $told, Freshness $freshness): Master
    {
        return new Master(
            $told->id,
            $told->peerAddress,
            $told->connectedAt,
            array_map(self::service(...), $told->services),
            $told->routes,
            $told->outstanding,
            $freshness,
        );
    }

    public static function masterChange(Thrift\MasterChange $told, Freshness $freshness): MasterChange
    {
        $master = $told->master ? self::master($told->master, $freshness) : null;
        return new MasterChange(self::kind($told->kind), $told->id, $master, $freshness);
    }

    /** @return list<MasterMessage> before them, how many were missed */
    public static function messages(Thrift\MessagesReply $told): array
    {
        $missed = $told->missed === 0 ? [] : [new MasterMessage('', [], 0, $told->missed)];
        $message = static fn (Thrift\MasterMessage $message) => new MasterMessage(
            $message->masterId,
            MessagePack::unpack($message->message),
            $message->receivedAt,
        );
        return [...$missed, ...array_map($message, $told->messages)];
    }

    /** @return array{string, array<string, int>} a service's name, and how many masters offer it by version */
    public static function summary(Thrift\ServiceSummary $told): array
    {
        uksort($told->masters, static fn (string $one, string $other) => Version::compare($other, $one));
        return [$told->name, $told->masters];
    }

    /**
     * @param ?string $masterId of the only one that it is for; null: any that offers the service
     * @param array<string|int|float|bool> $metadata what the service must have
     */
    public static function call(Call $call, ?string $masterId = null, array $metadata = []): Thrift\Call
    {
        return new Thrift\Call([
            'serviceName' => $call->service,
            'method' => $call->method,
            'arguments' => $call->arguments,
            'encoding' => Thrift\Encoding::MSGPACK,
            'masterId' => $masterId,
            'metadata' => self::metadata($metadata),
            'version' => $call->version,
            'balance' => $call->balance->value,
            'key' => $call->key,
            'timeoutMs' => $call->timeoutMs,
            'retries' => $call->retries,
            'idempotent' => $call->idempotent,
            'allValues' => $call->allValues,
        ]);
    }

    /**
     * What a service must have; null: nothing.
     *
     * @param array<string|int|float|bool> $metadata
     * @return ?array<string>
     */
    public static function metadata(array $metadata): ?array
    {
        $text = static fn (string|int|float|bool $value) => is_string($value) ? $value : json_encode($value);
        return $metadata === [] ? null : array_map($text, $metadata);
    }

    public static function result(Thrift\CallResult $told): CallResult
    {
        $values = array_map(MessagePack::unpack(...), $told->values);
        $last = $values === [] ? null : $values[array_key_last($values)];
        return new CallResult($last, $values, $told->masterId, $told->durationUs / 1_000, $told->attempts);
    }

    public static function outcome(Thrift\CallOutcome $told, Call $call): CallOutcome
    {
        $result = $told->result ? self::result($told->result) : null;
        return new CallOutcome($told->masterId, $result, $told->error ? self::error($told, $call) : null);
    }

    private static function error(Thrift\CallOutcome $told, Call $call): RosterException
    {
        $error = $told->error;
        $code = $error->code ?? 0;
        return match ($error->kind) {
            Thrift\CallErrorKind::NO_MASTER => new NoMaster($call->service, $error->message),
            Thrift\CallErrorKind::TIMED_OUT => new CallTimedOut($error->message, $call->timeoutMs, $told->masterId),
            Thrift\CallErrorKind::OVERLOADED => new Overloaded($error->message),
            Thrift\CallErrorKind::DENIED => new AccessDenied($error->message),
            Thrift\CallErrorKind::INVALID => new InvalidRequest('call', $error->message),
            default =>
                new CallFailed($error->message, $told->masterId ?? '', $error->className, $code, (bool) $error->lost),
        };
    }

    /**
     * The group, and the number in it, of `web` or `web/2`.
     *
     * @return array{?string, ?int}
     */
    public static function target(?string $worker): array
    {
        [$group, $number] = explode('/', $worker ?? '', 2) + [1 => null];
        if ($worker === '' || $number !== null && !preg_match('/^[1-9][0-9]{0,8}$/D', $number)) {
            throw new InvalidRequest('worker', "`$worker` is neither a group of workers nor one of it, such as `web/2`");
        }
        return [$worker === null ? null : $group, $number === null ? null : (int) $number];
    }

    public static function worker(Thrift\Worker $told): WorkerReport
    {
        return new WorkerReport(
            $told->name,
            $told->group,
            $told->number,
            Thrift\WorkerState::$__names[$told->state] ?? (string) $told->state,
            $told->sinceMs,
            $told->restarts,
            $told->why,
            $told->pid,
            $told->memoryBytes,
            $told->processorMs,
            $told->calls,
            $told->doing,
            $told->doingSinceMs,
        );
    }

    public static function workerAnswer(Thrift\WorkerAnswer $told): WorkerAnswer
    {
        $value = $told->value === null ? null : MessagePack::unpack($told->value);
        $error = $told->error === null ? null : new CallFailed($told->error, $told->worker, $told->className);
        return new WorkerAnswer($told->worker, $value, $error);
    }

    public static function status(Thrift\StatusReply $told, Freshness $freshness): Status
    {
        $sources = array_map(self::source(...), $told->sources);
        return new Status(
            $told->version,
            $told->uptimeMs,
            $freshness,
            $sources,
            $told->counters,
            $told->limits,
            $told->sharedFileError,
            $told->portsTaken ?? [],
        );
    }

    private static function source(Thrift\SourceStatus $told): Source
    {
        return new Source(
            $told->name,
            $told->kind,
            $told->state,
            $told->detail,
            array_map(self::supply(...), $told->supplies ?? []),
            $told->roots,
            $told->ageMs,
            $told->nodes,
            $told->bytes,
            $told->reconnects,
            $told->skippedNodes,
            $told->drift,
        );
    }

    private static function supply(int $told): string
    {
        return strtolower(Thrift\Supply::$__names[$told] ?? 'unknown');
    }

    private static function kind(int $told): ChangeKind
    {
        return match ($told) {
            Thrift\ChangeKind::CREATED => ChangeKind::Created,
            Thrift\ChangeKind::CHANGED => ChangeKind::Changed,
            Thrift\ChangeKind::DELETED => ChangeKind::Deleted,
        };
    }

    public static function json(string $text): mixed
    {
        return json_decode($text, true, flags: JSON_THROW_ON_ERROR | JSON_BIGINT_AS_STRING);
    }
}
