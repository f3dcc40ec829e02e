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
use Roster\Job;
use Roster\JobProgress;
use Roster\JobState;
use Roster\Master;
use Roster\MasterChange;
use Roster\MasterMessage;
use Roster\NewJob;
use Roster\Node;
use Roster\Origin;
use Roster\Probe;
use Roster\Provenance;
use Roster\Read\Filter;
use Roster\Resolved;
use Roster\Service;
use Roster\Source;
use Roster\Stat;
use Roster\Status;
use Roster\Thrift;
use Roster\Transport;
use Roster\Withholding;
use Roster\WorkerAnswer;
use Roster\WorkerReport;

/**
 * Converts between this package's values and Thrift's classes.
 *
 * @internal
 */
final class Values
{
    public static function freshness(Thrift\Freshness $struct, Transport $transport): Freshness
    {
        $origin = Origin::tryFrom($struct->origin) ?? Origin::Unknown;
        return new Freshness($struct->revision, $struct->ageMs, $origin, $struct->complete, $transport);
    }

    /**
     * How far several answers together can be trusted.
     *
     * @param non-empty-list<Freshness> $all
     */
    public static function together(array $all, int $revision): Freshness
    {
        return new Freshness(
            $revision,
            max(array_column($all, 'ageMs')),
            array_reduce($all, self::older(...), Origin::Live),
            !in_array(false, array_column($all, 'complete'), true),
            $all[0]->from,
        );
    }

    /** What is not live counts. */
    private static function older(Origin $origin, Freshness $next): Origin
    {
        return $origin === Origin::Live || $next->origin === Origin::Restored ? $next->origin : $origin;
    }

    public static function node(Thrift\Node $struct, Freshness $freshness): Node
    {
        return new Node($struct->path, $struct->data, Stat::of(get_object_vars($struct->stat)), $freshness);
    }

    /** Null if it is of a kind that is not known here. */
    public static function change(Thrift\Change $struct, Freshness $freshness): ?Change
    {
        $node = $struct->node ? self::node($struct->node, $freshness) : null;
        $kind = self::kind($struct->kind, $node !== null);
        return $kind === null ? null : new Change($kind, $struct->path, $node, $freshness);
    }

    public static function service(Thrift\Service $struct): Service
    {
        return new Service($struct->name, $struct->version, self::json($struct->metadata));
    }

    public static function instance(Thrift\Instance $struct, Freshness $freshness): Instance
    {
        return new Instance(
            $struct->serviceName,
            $struct->version,
            $struct->group,
            $struct->zone,
            $struct->weight,
            self::json($struct->metadata),
            self::state($struct->state),
            array_map(self::endpoint(...), $struct->endpoints),
            $struct->masterId,
            $struct->outstanding,
            array_map(self::provenance(...), $struct->provenance),
            $freshness,
            self::withholding($struct->ejected),
            self::withholding($struct->drained),
            $struct->held === null ? null : self::held($struct->held),
        );
    }

    public static function resolved(Thrift\Instance $struct, Freshness $freshness, ?bool $isProtected): Resolved
    {
        $endpoints = array_filter($struct->endpoints, static fn (Thrift\Endpoint $endpoint) => $endpoint->name === '');
        $endpoint = [...$endpoints, ...$struct->endpoints][0] ?? null;
        $isMaster = $struct->masterId !== null;
        return new Resolved(
            $isMaster ? null : $endpoint?->host,
            $isMaster ? null : $endpoint?->port,
            $endpoint?->protocol ?? '',
            $struct->masterId,
            $freshness,
            $isProtected ?? false,
            $struct->serviceName,
        );
    }

    private static function state(int $struct): InstanceState
    {
        return match ($struct) {
            Thrift\InstanceState::UP => InstanceState::Up,
            Thrift\InstanceState::RETURNING => InstanceState::Returning,
            Thrift\InstanceState::DOWN => InstanceState::Down,
            default => InstanceState::Unknown,
        };
    }

    private static function held(Thrift\Held $struct): Held
    {
        $probe = match ($struct->probe) {
            Thrift\Probe::UNTRIED => Probe::Untried,
            Thrift\Probe::ANSWERING => Probe::Answering,
            Thrift\Probe::SILENT => Probe::Silent,
            default => Probe::Unknown,
        };
        return new Held($struct->since, $struct->endsAt, $probe, $struct->passedOver);
    }

    private static function endpoint(Thrift\Endpoint $struct): \Roster\Endpoint
    {
        return new \Roster\Endpoint($struct->name, $struct->protocol, $struct->host, $struct->port);
    }

    private static function withholding(?Thrift\Withholding $struct): ?Withholding
    {
        return $struct === null ? null : new Withholding($struct->since, $struct->endsAt, $struct->reason);
    }

    private static function provenance(Thrift\Provenance $struct): Provenance
    {
        return new Provenance($struct->source, $struct->path, $struct->masterId, $struct->decoder, $struct->sinceRevision);
    }

    public static function master(Thrift\Master $struct, Freshness $freshness): Master
    {
        return new Master(
            $struct->id,
            $struct->peerAddress,
            $struct->connectedAt,
            array_map(self::service(...), $struct->services),
            $struct->routes,
            $struct->outstanding,
            $freshness,
        );
    }

    /** Null if it is of a kind that is not known here. */
    public static function masterChange(Thrift\MasterChange $struct, Freshness $freshness): ?MasterChange
    {
        $master = $struct->master ? self::master($struct->master, $freshness) : null;
        $kind = self::kind($struct->kind, $master !== null);
        return $kind === null ? null : new MasterChange($kind, $struct->id, $master, $freshness);
    }

    /** @return list<MasterMessage> preceded by how many were missed */
    public static function messages(Thrift\MessagesReply $struct): array
    {
        $missed = $struct->missed === 0 ? [] : [new MasterMessage('', [], 0, $struct->missed)];
        return [...$missed, ...array_map(self::message(...), $struct->messages)];
    }

    /** One that cannot be read is one that was missed: it keeps none of the others from whoever follows them. */
    private static function message(Thrift\MasterMessage $struct): MasterMessage
    {
        try {
            $message = MessagePack::unpack($struct->message);
        } catch (\UnexpectedValueException) {
            $message = null;
        }
        return is_array($message)
            ? new MasterMessage($struct->masterId, $message, $struct->receivedAt)
            : new MasterMessage('', [], 0, 1);
    }

    /** @return array{string, array<string, int>} a service's name, and how many masters offer it by version */
    public static function summary(Thrift\ServiceSummary $struct): array
    {
        uksort($struct->masters, static fn (string $one, string $other) => Version::compare($other, $one));
        return [$struct->name, $struct->masters];
    }

    /**
     * @param ?string $masterId the id of the only acceptable master; null: any that offers the service
     * @param array<string|int|float|bool> $metadata the service's required metadata
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
            'timeoutMs' => self::narrowed($call->timeoutMs),
            'retries' => self::narrowed($call->retries),
            'idempotent' => $call->idempotent,
            'allValues' => $call->allValues,
        ]);
    }

    /**
     * Required metadata; null: none.
     *
     * @param array<string|int|float|bool> $metadata
     * @return ?array<string>
     */
    public static function metadata(array $metadata): ?array
    {
        $required = [];
        foreach ($metadata as $key => $value) {
            $text = is_scalar($value) ? Filter::text($value) : false;
            if ($text === false) {
                $is = is_float($value) ? $value : get_debug_type($value);
                throw new InvalidRequest('metadata', "`$key` is $is; give a string, a number or a bool");
            }
            $required[$key] = $text;
        }
        return $required === [] ? null : $required;
    }

    /** @param array<string, mixed> $request a `ResolveRequest` */
    public static function resolveRequest(array $request): Thrift\ResolveRequest
    {
        return new Thrift\ResolveRequest(['subset' => self::narrowed($request['subset'])] + $request);
    }

    /** For a field of 32 bits, in which Thrift would leave off the others: what is beyond it is as much as fits. */
    public static function narrowed(int|float|null $number): ?int
    {
        return $number === null ? null : (int) max(-0x80000000, min($number, 0x7fffffff));
    }

    public static function result(Thrift\CallResult $struct): CallResult
    {
        $values = array_map(MessagePack::unpack(...), $struct->values);
        $last = $values === [] ? null : $values[array_key_last($values)];
        return new CallResult($last, $values, $struct->masterId, $struct->durationUs / 1_000, $struct->attempts);
    }

    public static function outcome(Thrift\CallOutcome $struct, Call $call): CallOutcome
    {
        $result = $struct->result ? self::result($struct->result) : null;
        return new CallOutcome($struct->masterId, $result, $struct->error ? self::error($struct, $call) : null);
    }

    private static function error(Thrift\CallOutcome $struct, Call $call): RosterException
    {
        $error = $struct->error;
        $code = $error->code ?? 0;
        return match ($error->kind) {
            Thrift\CallErrorKind::NO_MASTER => new NoMaster($call->service, $error->message),
            Thrift\CallErrorKind::TIMED_OUT => new CallTimedOut($error->message, $call->timeoutMs, $struct->masterId),
            Thrift\CallErrorKind::OVERLOADED => new Overloaded($error->message),
            Thrift\CallErrorKind::DENIED => new AccessDenied($error->message),
            Thrift\CallErrorKind::INVALID => new InvalidRequest('call', $error->message),
            default =>
                new CallFailed($error->message, $struct->masterId ?? '', $error->className, $code, (bool) $error->lost),
        };
    }

    /**
     * The group, and the number in it, from `web` or `web/2`.
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

    public static function worker(Thrift\Worker $struct): WorkerReport
    {
        return new WorkerReport(
            $struct->name,
            $struct->group,
            $struct->number,
            Thrift\WorkerState::$__names[$struct->state] ?? (string) $struct->state,
            $struct->sinceMs,
            $struct->restarts,
            $struct->why,
            $struct->pid,
            $struct->memoryBytes,
            $struct->processorMs,
            $struct->calls,
            $struct->doing,
            $struct->doingSinceMs,
        );
    }

    public static function workerAnswer(Thrift\WorkerAnswer $struct): WorkerAnswer
    {
        $value = $struct->value === null ? null : MessagePack::unpack($struct->value);
        $error = $struct->error === null ? null : new CallFailed($struct->error, $struct->worker, $struct->className);
        return new WorkerAnswer($struct->worker, $value, $error);
    }

    public static function newJob(NewJob $job): Thrift\NewJob
    {
        return new Thrift\NewJob([
            'queue' => $job->queue,
            'name' => $job->name,
            'payload' => $job->payload,
            'delayMs' => $job->delayMs,
            'priority' => self::narrowed($job->priority),
            'uniqueKey' => $job->unique,
            'uniqueUntil' => $job->untilStart ? Thrift\UniqueUntil::START : Thrift\UniqueUntil::SUCCESS,
            'retries' => self::narrowed($job->retries),
            'timeoutMs' => $job->attemptTimeoutMs,
            'limitKey' => $job->limitKey,
            'keepResultMs' => $job->keepResultMs,
        ]);
    }

    public static function job(Thrift\Job $struct): Job
    {
        $progress = $struct->progress;
        return new Job(
            $struct->id,
            $struct->queue,
            $struct->name,
            $struct->payload,
            JobState::tryFrom($struct->state),
            $struct->priority,
            $struct->attempt,
            $struct->failures,
            $struct->retries,
            $struct->timeoutMs,
            $struct->enqueuedAt,
            $struct->stateAt,
            $struct->error,
            $progress ? new JobProgress($progress->percent, $progress->note ?? '', $progress->reportedAt ?? 0) : null,
            result: $struct->result,
            isBuffered: $struct->isBuffered ?? false,
            uniqueKey: $struct->uniqueKey,
            limitKey: $struct->limitKey,
            dueAt: $struct->dueAt,
        );
    }

    public static function status(Thrift\StatusReply $struct, Freshness $freshness): Status
    {
        $sources = array_map(self::source(...), $struct->sources);
        return new Status(
            $struct->version,
            $struct->uptimeMs,
            $freshness,
            $sources,
            $struct->counters,
            $struct->limits,
            $struct->sharedFileError,
            $struct->portsTaken ?? [],
            $struct->stateError,
        );
    }

    private static function source(Thrift\SourceStatus $struct): Source
    {
        return new Source(
            $struct->name,
            $struct->kind,
            $struct->state,
            $struct->detail,
            array_map(self::supply(...), $struct->supplies ?? []),
            $struct->roots,
            $struct->ageMs,
            $struct->nodes,
            $struct->bytes,
            $struct->reconnects,
            $struct->skippedNodes,
            $struct->drift,
        );
    }

    private static function supply(int $struct): string
    {
        return strtolower(Thrift\Supply::$__names[$struct] ?? 'unknown');
    }

    /** One that is not known here is a change of what there is now. */
    private static function kind(int $struct, bool $isThere): ?ChangeKind
    {
        return match ($struct) {
            Thrift\ChangeKind::CREATED => ChangeKind::Created,
            Thrift\ChangeKind::CHANGED => ChangeKind::Changed,
            Thrift\ChangeKind::DELETED => ChangeKind::Deleted,
            default => $isThere ? ChangeKind::Changed : null,
        };
    }

    public static function json(string $text): mixed
    {
        return json_decode($text, true, flags: JSON_THROW_ON_ERROR | JSON_BIGINT_AS_STRING);
    }
}
